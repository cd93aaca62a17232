"""Float32 rows to and from any ggml type, by ggml's own reference code.

Knows nothing of files or recipes. The calls release the GIL, so callers may run several at once on different rows.
"""

from __future__ import annotations

import ctypes

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from cotcli.native.ggml import block_size
from cotcli.native.library import bind

# size_t ggml_row_size(enum ggml_type type, int64_t ne);
_ggml_row_size = bind("ggml_row_size", ctypes.c_size_t, ctypes.c_int, ctypes.c_int64)
# size_t ggml_quantize_chunk(enum ggml_type type, const float * src, void * dst,
#                            int64_t start, int64_t nrows, int64_t n_per_row, const float * imatrix);
_ggml_quantize_chunk = bind(
    "ggml_quantize_chunk",
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_void_p,
)


def row_size(kind: GGMLQuantizationType, width: int) -> int:
    """Bytes of one row of ``width`` values; ``width`` must be a multiple of ``block_size(kind)``."""
    return int(_ggml_row_size(int(kind), width))


def quantize(values: NDArray[np.float32], kind: GGMLQuantizationType) -> NDArray[np.uint8]:
    """Rows in ggml's format.

    Args:
        values: shape (rows, width), float32; ``width`` a multiple of ``block_size(kind)``.
        kind: any type ggml can quantize to without an importance matrix, or F32, F16, BF16.

    Returns:
        shape (rows, row_size(kind, width)), uint8: what ``llama_model_quantize`` writes for the same values.

    Raises:
        ValueError: ``values`` is not 2-D or its width does not fit.
    """
    if values.ndim != 2 or values.shape[1] % block_size(kind):
        raise ValueError(f"{values.shape} cannot be {kind.name}: rows must be a multiple of {block_size(kind)}")
    source = np.ascontiguousarray(values, dtype=np.float32)
    rows, width = source.shape
    out = np.empty((rows, row_size(kind, width)), np.uint8)
    written = _ggml_quantize_chunk(int(kind), source.ctypes.data, out.ctypes.data, 0, rows, width, None)
    if written != out.nbytes:
        raise ValueError(f"ggml wrote {written} bytes where {out.nbytes} were due")
    return out
