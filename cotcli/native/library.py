"""The native libraries inside llama-cpp-python, and how we bind symbols of theirs that it does not.

Every symbol is resolved through the copy that llama_cpp has already loaded. ``ctypes.CDLL("libggml.so")`` would not do:
``libggml.so``, ``.so.0`` and ``.so.0.x`` are separate files in the wheel, and loading another maps a second ggml with
a device registry of its own.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

from cotcli.errors import CotcliError

LLAMA_CPP_PYTHON = "0.3.36"  # as in pyproject.toml
PINNED = f"llama-cpp-python=={LLAMA_CPP_PYTHON}"


def _declarations() -> Any:
    """``llama_cpp.llama_cpp``, the declarations of libllama, without all else that their package imports.

    That is chat templates, caches and HTTP, of no use here and a fifth of the time until a model can be loaded. The
    package is left for others to import as if nobody had; only in this very moment no other thread must.
    """
    if "llama_cpp" in sys.modules:
        return import_module("llama_cpp.llama_cpp")
    spec = find_spec("llama_cpp")
    if spec is None:
        raise ModuleNotFoundError("No module named 'llama_cpp'")
    sys.modules["llama_cpp"] = module_from_spec(spec)
    try:
        return import_module("llama_cpp.llama_cpp")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "llama_cpp"]:
            del sys.modules[name]


try:
    llama_cpp: Any = _declarations()
except Exception as error:  # a missing shared library surfaces as RuntimeError or OSError
    raise CotcliError(
        f"llama-cpp-python cannot be loaded: {error}",
        f"Install it again: pip install --force-reinstall --no-cache-dir {PINNED}",
    ) from error

_lib: ctypes.CDLL = llama_cpp._lib


def _libraries() -> list[ctypes.CDLL]:
    """libllama, and on Windows the ggml DLLs beside it, since symbols there are not found through dependents."""
    if sys.platform == "win32":
        folder = Path(llama_cpp.__file__).parent / "lib"
        # Loading by the full path of a module that is already mapped gives that module, not a copy.
        return [_lib, *(ctypes.CDLL(str(path)) for path in sorted(folder.glob("ggml*.dll")))]
    return [_lib]


_LIBRARIES = _libraries()


def bind(name: str, restype: Any, *argtypes: Any) -> Callable[..., Any]:
    """The C function ``name`` with its signature set.

    Raises:
        CotcliError: no loaded library has it, so this is another release than the one pinned.
    """
    for library in _LIBRARIES:
        try:
            # A fresh function object: llama_cpp sets its own signatures on the attributes of its library.
            function = library[name]
        except AttributeError:
            continue
        function.restype = restype
        function.argtypes = argtypes
        return function
    raise CotcliError(
        f"this llama-cpp-python has no {name}: it is not the release cotcli was made for",
        f"Install the pinned one: pip install --force-reinstall {PINNED}",
    )
