"""llama.cpp's and ggml's log: its errors kept to be quoted in ours, all of it shown on stderr only when asked for."""

from __future__ import annotations

import collections
import ctypes
import sys
from typing import Any

from cotcli.native.library import llama_cpp

_LEVEL_WARN, _LEVEL_ERROR, _LEVEL_CONT = 3, 4, 5
_errors: collections.deque[str] = collections.deque(maxlen=20)
_verbose = False
_last_level = 0


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: Any) -> None:
    global _last_level
    level = _last_level if level == _LEVEL_CONT else level
    _last_level = level
    line = text.decode("utf-8", "replace")
    if level == _LEVEL_ERROR and line.strip(" .\n"):
        _errors.append(line.strip())
    if _verbose:
        sys.stderr.write(line)


def capture() -> None:
    """Takes over the log of both libraries, until somebody else does."""
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(0))


def show(enabled: bool) -> None:
    """Whether lines also go to stderr as they come (``-vv``)."""
    global _verbose
    _verbose = enabled


def clear_errors() -> None:
    """Before a call whose errors are to be quoted. Who imports llama_cpp itself takes the log over, hence again."""
    capture()
    _errors.clear()


def last_error() -> str | None:
    """The first error logged since ``clear_errors``, which is the cause; later ones report its consequences."""
    return _errors[0] if _errors else None
