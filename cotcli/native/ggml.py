"""ggml from Python: the tensor struct, operators, graphs, and the owner of what they are made in.

A tensor is a plain address (``Tensor``), as in C; it lives as long as the ``Arena`` (``ggml_context``) it was made in.
Shapes here are ggml's ``ne``, fastest axis first, the reverse of NumPy's. Source: ``ggml.h`` of the release that
llama-cpp-python bundles. What has a tensor's values and computes is in ``ggml_backend.py``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

from cotcli.errors import CotcliError, ResourceError
from cotcli.native.library import bind

Tensor = int

F32, F16 = 0, 1


class ggml_tensor(Structure):
    """``struct ggml_tensor``; ``cotcli.native.abi`` checks that it is laid out like this."""

    _fields_ = (
        ("type", c_int),
        ("buffer", c_void_p),
        ("ne", c_int64 * 4),
        ("nb", c_size_t * 4),
        ("op", c_int),
        ("op_params", c_int32 * 16),
        ("flags", c_int32),
        ("src", c_void_p * 10),
        ("view_src", c_void_p),
        ("view_offs", c_size_t),
        ("data", c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class ggml_init_params(Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


def fields(tensor: Tensor) -> ggml_tensor:
    """The struct behind an address."""
    return ggml_tensor.from_address(tensor)


# const char * ggml_version(void);
version = bind("ggml_version", c_char_p)
# size_t ggml_tensor_overhead(void);
tensor_overhead = bind("ggml_tensor_overhead", c_size_t)
# size_t ggml_graph_overhead_custom(size_t size, bool grads);
_graph_overhead = bind("ggml_graph_overhead_custom", c_size_t, c_size_t, c_bool)
# struct ggml_context * ggml_init(struct ggml_init_params params);
_init = bind("ggml_init", c_void_p, ggml_init_params)
# void ggml_free(struct ggml_context * ctx);
_free = bind("ggml_free", None, c_void_p)
# const char * ggml_get_name(const struct ggml_tensor * tensor);
get_name = bind("ggml_get_name", c_char_p, c_void_p)
# size_t ggml_nbytes(const struct ggml_tensor * tensor);
nbytes = bind("ggml_nbytes", c_size_t, c_void_p)
# int64_t ggml_blck_size(enum ggml_type type);
_blck_size = bind("ggml_blck_size", c_int64, c_int)

# struct ggml_tensor * ggml_new_tensor(struct ggml_context *, enum ggml_type, int n_dims, const int64_t * ne);
_new_tensor = bind("ggml_new_tensor", c_void_p, c_void_p, c_int, c_int, POINTER(c_int64))
# struct ggml_tensor * ggml_{unary}(struct ggml_context *, struct ggml_tensor *);
_cont = bind("ggml_cont", c_void_p, c_void_p, c_void_p)
_gelu_erf = bind("ggml_gelu_erf", c_void_p, c_void_p, c_void_p)
# struct ggml_tensor * ggml_{binary}(struct ggml_context *, struct ggml_tensor * a, struct ggml_tensor * b);
_add = bind("ggml_add", c_void_p, c_void_p, c_void_p, c_void_p)
_add_inplace = bind("ggml_add_inplace", c_void_p, c_void_p, c_void_p, c_void_p)
_mul = bind("ggml_mul", c_void_p, c_void_p, c_void_p, c_void_p)
_mul_mat = bind("ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p)
_cpy = bind("ggml_cpy", c_void_p, c_void_p, c_void_p, c_void_p)
_swiglu_split = bind("ggml_swiglu_split", c_void_p, c_void_p, c_void_p, c_void_p)
# struct ggml_tensor * ggml_concat(struct ggml_context *, struct ggml_tensor * a, struct ggml_tensor * b, int dim);
_concat = bind("ggml_concat", c_void_p, c_void_p, c_void_p, c_void_p, c_int)
# struct ggml_tensor * ggml_norm(struct ggml_context *, struct ggml_tensor * a, float eps);
_norm = bind("ggml_norm", c_void_p, c_void_p, c_void_p, c_float)
_rms_norm = bind("ggml_rms_norm", c_void_p, c_void_p, c_void_p, c_float)
# struct ggml_tensor * ggml_scale(struct ggml_context *, struct ggml_tensor * a, float s);
_scale = bind("ggml_scale", c_void_p, c_void_p, c_void_p, c_float)
# struct ggml_tensor * ggml_soft_max_ext(ctx, a, mask, float scale, float max_bias);
_soft_max_ext = bind("ggml_soft_max_ext", c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_float)
# struct ggml_tensor * ggml_flash_attn_ext(ctx, q, k, v, mask, float scale, float max_bias, float logit_softcap);
_flash_attn_ext = bind(
    "ggml_flash_attn_ext", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_float, c_float
)
# struct ggml_tensor * ggml_reshape_4d(ctx, a, int64_t ne0, int64_t ne1, int64_t ne2, int64_t ne3);
_reshape_4d = bind("ggml_reshape_4d", c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_int64)
# struct ggml_tensor * ggml_permute(ctx, a, int axis0, int axis1, int axis2, int axis3);
_permute = bind("ggml_permute", c_void_p, c_void_p, c_void_p, c_int, c_int, c_int, c_int)
# struct ggml_tensor * ggml_view_4d(ctx, a, ne0, ne1, ne2, ne3, size_t nb1, nb2, nb3, size_t offset);
_view_4d = bind(
    "ggml_view_4d",
    c_void_p,
    c_void_p,
    c_void_p,
    *(c_int64,) * 4,
    *(c_size_t,) * 4,
)
# struct ggml_cgraph * ggml_new_graph_custom(struct ggml_context * ctx, size_t size, bool grads);
_new_graph = bind("ggml_new_graph_custom", c_void_p, c_void_p, c_size_t, c_bool)
# void ggml_build_forward_expand(struct ggml_cgraph * cgraph, struct ggml_tensor * tensor);
_build_forward_expand = bind("ggml_build_forward_expand", None, c_void_p, c_void_p)


def block_size(type_: int) -> int:
    """Values that are stored together: a row must hold a whole number of these."""
    return int(_blck_size(int(type_)))


class Handle:
    """Base of the owners: closes once, by ``close`` or at the end of a ``with`` block.

    There is no ``__del__``: handles depend on each other (a context on its model, a tensor on its buffer), and the
    garbage collector knows no order. What holds them together, the engine, closes them, at the latest at exit.
    """

    _handle: int | None = None

    @property
    def handle(self) -> int:
        if self._handle is None:
            raise CotcliError(f"{type(self).__name__} is closed")
        return self._handle

    def close(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            self._release(handle)

    def _release(self, handle: int) -> None:
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Arena(Handle):
    """Owns a ``ggml_context`` without data, and makes tensors and graphs in it.

    Methods are ggml's operators under ggml's names and argument orders.
    """

    def __init__(self, max_tensors: int, graph_size: int = 0) -> None:
        size = tensor_overhead() * max_tensors + (_graph_overhead(graph_size, False) if graph_size else 0)
        self._handle = _init(ggml_init_params(size, None, True))
        if self._handle is None:
            raise ResourceError("not enough memory for a ggml context")
        self._graph_size = graph_size

    def _release(self, handle: int) -> None:
        _free(handle)

    def graph(self, *outputs: Tensor) -> int:
        """A graph that computes ``outputs``, in this order where they depend on nothing of each other."""
        graph = _new_graph(self.handle, self._graph_size, False)
        for output in outputs:
            _build_forward_expand(graph, output)
        return int(graph)

    def tensor(self, type_: int, *ne: int) -> Tensor:
        return int(_new_tensor(self.handle, type_, len(ne), (c_int64 * len(ne))(*ne)))

    def cont(self, a: Tensor) -> Tensor:
        return int(_cont(self.handle, a))

    def gelu_erf(self, a: Tensor) -> Tensor:
        return int(_gelu_erf(self.handle, a))

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return int(_add(self.handle, a, b))

    def add_inplace(self, a: Tensor, b: Tensor) -> Tensor:
        return int(_add_inplace(self.handle, a, b))

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return int(_mul(self.handle, a, b))

    def mul_mat(self, a: Tensor, b: Tensor) -> Tensor:
        return int(_mul_mat(self.handle, a, b))

    def cpy(self, a: Tensor, b: Tensor) -> Tensor:
        return int(_cpy(self.handle, a, b))

    def swiglu_split(self, gate: Tensor, up: Tensor) -> Tensor:
        return int(_swiglu_split(self.handle, gate, up))

    def concat(self, a: Tensor, b: Tensor, dim: int) -> Tensor:
        return int(_concat(self.handle, a, b, dim))

    def norm(self, a: Tensor, eps: float) -> Tensor:
        return int(_norm(self.handle, a, eps))

    def rms_norm(self, a: Tensor, eps: float) -> Tensor:
        return int(_rms_norm(self.handle, a, eps))

    def scale(self, a: Tensor, s: float) -> Tensor:
        return int(_scale(self.handle, a, s))

    def soft_max_ext(self, a: Tensor, scale: float) -> Tensor:
        return int(_soft_max_ext(self.handle, a, None, scale, 0.0))

    def flash_attn_ext(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        return int(_flash_attn_ext(self.handle, q, k, v, None, scale, 0.0, 0.0))

    def reshape(self, a: Tensor, *ne: int) -> Tensor:
        full = (*ne, 1, 1, 1)[:4]
        return int(_reshape_4d(self.handle, a, *full))

    def permute(self, a: Tensor, *axes: int) -> Tensor:
        return int(_permute(self.handle, a, *axes))

    def view(self, a: Tensor, ne: Sequence[int], nb: Sequence[int] | None = None, offset: int = 0) -> Tensor:
        """A view of ``a`` with shape ``ne``; ``nb`` are the strides of axes 1.. in bytes (default: those of ``a``)."""
        full = (*ne, 1, 1, 1)[:4]
        strides = list(nb) if nb is not None else list(fields(a).nb)[1 : len(ne)]
        while len(strides) < 3:
            strides.append(strides[-1] * full[len(strides)] if strides else int(fields(a).nb[0]) * full[0])
        return int(_view_4d(self.handle, a, *full, *strides, offset))
