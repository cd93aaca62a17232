"""Ctrl-C while native code calls back into Python.

An exception raised by a signal handler at the first bytecode of a ctypes callback is lost: ctypes prints it and returns
False. So while a decode runs, SIGINT only sets a flag; callbacks look at it, and the exception is raised afterwards.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_requested = False


def _note(signum: int, frame: FrameType | None) -> None:
    global _requested
    _requested = True


def requested() -> bool:
    """Whether Ctrl-C came since the ``deferred`` block of this thread began; False in threads that cannot have one."""
    return _requested and threading.current_thread() is threading.main_thread()


@contextmanager
def deferred() -> Iterator[None]:
    """Raises KeyboardInterrupt at the end of the block if Ctrl-C came during it and nothing else was raised.

    Does nothing outside the main thread, where Python never raises it, and where the handler is not Python's own:
    inside another such block, or in a program that handles SIGINT itself.
    """
    global _requested
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield
        return
    _requested = False
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        came, _requested = _requested, False
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if came:
        raise KeyboardInterrupt
