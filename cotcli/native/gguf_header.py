"""The tensors of a GGUF file as ggml reads its header: far quicker than Python is with a large vocabulary.

Knows names, types and sizes; no metadata and no tensor data. Source: ``gguf.h`` of the bundled release.
"""

from __future__ import annotations

import os
from ctypes import POINTER, Structure, c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from pathlib import Path

from cotcli.errors import ModelError
from cotcli.native import interrupt, log
from cotcli.native.library import bind


class gguf_init_params(Structure):
    _fields_ = (("no_alloc", c_bool), ("ctx", c_void_p))


# struct gguf_context * gguf_init_from_file(const char * fname, struct gguf_init_params params);
_init_from_file = bind("gguf_init_from_file", c_void_p, c_char_p, gguf_init_params)
# void gguf_free(struct gguf_context * ctx);
_free = bind("gguf_free", None, c_void_p)
# int64_t gguf_get_n_tensors(const struct gguf_context * ctx);
_get_n_tensors = bind("gguf_get_n_tensors", c_int64, c_void_p)
# const char * gguf_get_tensor_name(const struct gguf_context * ctx, int64_t tensor_id);
_get_tensor_name = bind("gguf_get_tensor_name", c_char_p, c_void_p, c_int64)
# const int64_t * gguf_get_tensor_ne(const struct gguf_context * ctx, int64_t tensor_id);
_get_tensor_ne = bind("gguf_get_tensor_ne", POINTER(c_int64), c_void_p, c_int64)
# enum ggml_type gguf_get_tensor_type(const struct gguf_context * ctx, int64_t tensor_id);
_get_tensor_type = bind("gguf_get_tensor_type", c_int, c_void_p, c_int64)
# size_t gguf_get_tensor_size(const struct gguf_context * ctx, int64_t tensor_id);
_get_tensor_size = bind("gguf_get_tensor_size", c_size_t, c_void_p, c_int64)


@dataclass(frozen=True)
class TensorHeader:
    """One tensor: ggml's type, ``ne`` (fastest axis first, without trailing ones) and bytes in the file."""

    name: str
    type: int
    ne: tuple[int, ...]
    n_bytes: int


def read_tensors(path: Path) -> list[TensorHeader]:
    """The tensors of a GGUF file, in its order.

    Raises:
        ModelError: not a GGUF, or cut short in its header; says what ggml said.
    """
    log.clear_errors()
    with interrupt.deferred():  # what is wrong comes back into Python, through the log
        context = _init_from_file(os.fsencode(path), gguf_init_params(True, None))
    if not context:
        raise ModelError(
            f"{path} cannot be loaded: {log.last_error() or 'ggml gave no reason'}",
            "See llama.cpp's log with -vv, or convert the checkpoint again: cotcli convert SRC",
        )
    try:
        return [_tensor(context, i) for i in range(_get_n_tensors(context))]
    finally:
        _free(context)


def _tensor(context: int, index: int) -> TensorHeader:
    ne = list(_get_tensor_ne(context, index)[:4])
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    return TensorHeader(
        name=_get_tensor_name(context, index).decode("utf-8", "replace"),
        type=int(_get_tensor_type(context, index)),
        ne=tuple(int(n) for n in ne),
        n_bytes=int(_get_tensor_size(context, index)),
    )
