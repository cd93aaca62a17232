"""ggml from Python: the tensor struct, operators, backends, buffers, and one owner for each handle.

A tensor is a plain address (``Tensor``), as in C; it lives as long as the ``Arena`` (``ggml_context``) it was made in.
Shapes here are ggml's ``ne``, fastest axis first, the reverse of NumPy's. Source: ``ggml.h``, ``ggml-backend.h``,
``ggml-alloc.h`` and ``ggml-cpu.h`` of the release that llama-cpp-python bundles.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_float, c_int, c_int32, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from cotcli.errors import CotcliError, ResourceError
from cotcli.native.library import bind

Tensor = int
Device = int

F32, F16 = 0, 1
DEVICE_TYPE_CPU = 0
STATUS_ALLOC_FAILED, STATUS_SUCCESS = -2, 0


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


class ggml_threadpool_params(Structure):
    _fields_ = (
        ("cpumask", c_bool * 512),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    )


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

# ggml_gallocr_t ggml_gallocr_new(ggml_backend_buffer_type_t buft);
_gallocr_new = bind("ggml_gallocr_new", c_void_p, c_void_p)
# void ggml_gallocr_free(ggml_gallocr_t galloc);
_gallocr_free = bind("ggml_gallocr_free", None, c_void_p)
# bool ggml_gallocr_alloc_graph(ggml_gallocr_t galloc, struct ggml_cgraph * graph);
_gallocr_alloc_graph = bind("ggml_gallocr_alloc_graph", c_bool, c_void_p, c_void_p)
# size_t ggml_gallocr_get_buffer_size(ggml_gallocr_t galloc, int buffer_id);
_gallocr_get_buffer_size = bind("ggml_gallocr_get_buffer_size", c_size_t, c_void_p, c_int)

# size_t ggml_backend_dev_count(void);
_dev_count = bind("ggml_backend_dev_count", c_size_t)
# ggml_backend_dev_t ggml_backend_dev_get(size_t index);
_dev_get = bind("ggml_backend_dev_get", c_void_p, c_size_t)
# ggml_backend_dev_t ggml_backend_dev_by_type(enum ggml_backend_dev_type type);
_dev_by_type = bind("ggml_backend_dev_by_type", c_void_p, c_int)
# const char * ggml_backend_dev_name(ggml_backend_dev_t device);
_dev_name = bind("ggml_backend_dev_name", c_char_p, c_void_p)
# const char * ggml_backend_dev_description(ggml_backend_dev_t device);
_dev_description = bind("ggml_backend_dev_description", c_char_p, c_void_p)
# ggml_backend_t ggml_backend_dev_init(ggml_backend_dev_t device, const char * params);
_dev_init = bind("ggml_backend_dev_init", c_void_p, c_void_p, c_char_p)
# ggml_backend_buffer_type_t ggml_backend_dev_buffer_type(ggml_backend_dev_t device);
_dev_buffer_type = bind("ggml_backend_dev_buffer_type", c_void_p, c_void_p)
# void ggml_backend_free(ggml_backend_t backend);
_backend_free = bind("ggml_backend_free", None, c_void_p)
# enum ggml_status ggml_backend_graph_compute(ggml_backend_t backend, struct ggml_cgraph * cgraph);
_graph_compute = bind("ggml_backend_graph_compute", c_int, c_void_p, c_void_p)
# bool ggml_backend_buft_is_host(ggml_backend_buffer_type_t buft);
_buft_is_host = bind("ggml_backend_buft_is_host", c_bool, c_void_p)
# ggml_backend_dev_t ggml_backend_buft_get_device(ggml_backend_buffer_type_t buft);
_buft_get_device = bind("ggml_backend_buft_get_device", c_void_p, c_void_p)
# ggml_backend_buffer_type_t ggml_backend_buffer_get_type(ggml_backend_buffer_t buffer);
_buffer_get_type = bind("ggml_backend_buffer_get_type", c_void_p, c_void_p)
# void ggml_backend_buffer_free(ggml_backend_buffer_t buffer);
_buffer_free = bind("ggml_backend_buffer_free", None, c_void_p)
# void ggml_backend_buffer_set_usage(ggml_backend_buffer_t buffer, enum ggml_backend_buffer_usage usage);
_buffer_set_usage = bind("ggml_backend_buffer_set_usage", None, c_void_p, c_int)
# struct ggml_backend_buffer * ggml_backend_alloc_ctx_tensors_from_buft(ctx, ggml_backend_buffer_type_t buft);
_alloc_ctx_tensors = bind("ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, c_void_p, c_void_p)
# enum ggml_status ggml_backend_tensor_alloc(ggml_backend_buffer_t buffer, struct ggml_tensor * tensor, void * addr);
_tensor_alloc = bind("ggml_backend_tensor_alloc", c_int, c_void_p, c_void_p, c_void_p)
# ggml_backend_buffer_t ggml_backend_cpu_buffer_from_ptr(void * ptr, size_t size);
_cpu_buffer_from_ptr = bind("ggml_backend_cpu_buffer_from_ptr", c_void_p, c_void_p, c_size_t)
# void ggml_backend_tensor_set(struct ggml_tensor * tensor, const void * data, size_t offset, size_t size);
_tensor_set = bind("ggml_backend_tensor_set", None, c_void_p, c_void_p, c_size_t, c_size_t)
# void ggml_backend_tensor_get(const struct ggml_tensor * tensor, void * data, size_t offset, size_t size);
_tensor_get = bind("ggml_backend_tensor_get", None, c_void_p, c_void_p, c_size_t, c_size_t)
# void ggml_backend_tensor_copy(const struct ggml_tensor * src, struct ggml_tensor * dst);
tensor_copy = bind("ggml_backend_tensor_copy", None, c_void_p, c_void_p)
# bool ggml_backend_is_cpu(ggml_backend_t backend);
_is_cpu = bind("ggml_backend_is_cpu", c_bool, c_void_p)
# void ggml_backend_cpu_set_n_threads(ggml_backend_t backend_cpu, int n_threads);
_cpu_set_n_threads = bind("ggml_backend_cpu_set_n_threads", None, c_void_p, c_int)
# void ggml_backend_cpu_set_threadpool(ggml_backend_t backend_cpu, ggml_threadpool_t threadpool);
_cpu_set_threadpool = bind("ggml_backend_cpu_set_threadpool", None, c_void_p, c_void_p)
# void ggml_threadpool_params_init(struct ggml_threadpool_params * p, int n_threads);
_threadpool_params_init = bind("ggml_threadpool_params_init", None, POINTER(ggml_threadpool_params), c_int)
# struct ggml_threadpool * ggml_threadpool_new(struct ggml_threadpool_params * params);
_threadpool_new = bind("ggml_threadpool_new", c_void_p, POINTER(ggml_threadpool_params))
# void ggml_threadpool_free(struct ggml_threadpool * threadpool);
_threadpool_free = bind("ggml_threadpool_free", None, c_void_p)


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


class Buffer(Handle):
    """Owns a ``ggml_backend_buffer``."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def mark_weights(self) -> None:
        """Tells ggml that the buffer holds weights (GGML_BACKEND_BUFFER_USAGE_WEIGHTS)."""
        _buffer_set_usage(self.handle, 1)

    def place(self, tensor: Tensor, address: int) -> None:
        """Gives ``tensor`` its data at ``address`` inside this buffer (ggml_backend_tensor_alloc)."""
        place(self.handle, tensor, address)

    def _release(self, handle: int) -> None:
        _buffer_free(handle)


def place(buffer: int, tensor: Tensor, address: int) -> None:
    """Gives ``tensor`` its data at ``address`` inside a buffer that somebody else owns."""
    if _tensor_alloc(buffer, tensor, address) != STATUS_SUCCESS:
        raise CotcliError("ggml could not place a tensor in an existing buffer")


def host_buffer(array: npt.NDArray[np.uint8]) -> Buffer:
    """A CPU buffer over memory of ours, which must be 32-byte aligned and outlive it."""
    handle = _cpu_buffer_from_ptr(array.ctypes.data, array.nbytes)
    if not handle:
        raise ResourceError("ggml could not use the mapped file as a buffer")
    return Buffer(handle)


class Threadpool(Handle):
    """Owns a ``ggml_threadpool``, to be shared by libllama and our own graphs: two pools would oversubscribe."""

    def __init__(self, n_threads: int) -> None:
        params = ggml_threadpool_params()
        _threadpool_params_init(byref(params), n_threads)
        self._handle = _threadpool_new(byref(params))
        if self._handle is None:
            raise ResourceError(f"{n_threads} threads could not be started", "Try fewer: --threads N")
        self.n_threads = n_threads

    def _release(self, handle: int) -> None:
        _threadpool_free(handle)


class Backend(Handle):
    """Owns a ``ggml_backend`` (a stream) on one device."""

    def __init__(self, device: Device, threadpool: Threadpool) -> None:
        self._handle = _dev_init(device, None)
        if self._handle is None:
            raise ResourceError(f"device {device_name(device)} cannot be started")
        self.device = device
        self.name = device_name(device)
        self.is_cpu = bool(_is_cpu(self.handle))
        self.buffer_type: int = _dev_buffer_type(device)
        if self.is_cpu:
            _cpu_set_n_threads(self.handle, threadpool.n_threads)
            _cpu_set_threadpool(self.handle, threadpool.handle)

    def compute(self, graph: int) -> None:
        """Runs a graph and waits for it.

        Raises:
            ResourceError: the backend failed, in practice for want of memory.
        """
        status = _graph_compute(self.handle, graph)
        if status != STATUS_SUCCESS:
            what = "ran out of memory" if status == STATUS_ALLOC_FAILED else f"failed (ggml status {status})"
            raise ResourceError(f"computing on {self.name} {what}", "Try fewer layers on the device: --gpu-layers N")

    def allocate(self, arena: Arena) -> Buffer:
        """One buffer for all tensors of ``arena`` that have none yet."""
        handle = _alloc_ctx_tensors(arena.handle, self.buffer_type)
        if not handle:
            raise ResourceError(f"not enough memory on {self.name}", "Try fewer layers on the device: --gpu-layers N")
        return Buffer(handle)

    def _release(self, handle: int) -> None:
        _backend_free(handle)


class GraphAllocator(Handle):
    """Owns a ``ggml_gallocr``: scratch memory that grows to the largest graph it has seen."""

    def __init__(self, backend: Backend) -> None:
        self._handle = _gallocr_new(backend.buffer_type)
        self._name = backend.name

    def allocate(self, graph: int) -> None:
        """Raises ResourceError when the device has no room."""
        if not _gallocr_alloc_graph(self.handle, graph):
            raise ResourceError(f"not enough memory on {self._name} for a compute graph")

    @property
    def size(self) -> int:
        return int(_gallocr_get_buffer_size(self.handle, 0))

    def _release(self, handle: int) -> None:
        _gallocr_free(handle)


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


def set_data(tensor: Tensor, array: npt.NDArray[Any]) -> None:
    """Copies a C-contiguous array of the tensor's size and type into it, whatever device it is on."""
    if not array.flags.c_contiguous or array.nbytes != nbytes(tensor):
        raise CotcliError(f"{array.nbytes} bytes do not fill a tensor of {nbytes(tensor)}")
    _tensor_set(tensor, array.ctypes.data, 0, array.nbytes)


def get_data(tensor: Tensor, dtype: npt.DTypeLike = np.float32) -> npt.NDArray[Any]:
    """The tensor's values as a new array, shape = reversed ``ne`` without leading ones."""
    ne = list(fields(tensor).ne)
    while len(ne) > 1 and ne[-1] == 1:
        ne.pop()
    array = np.empty(ne[::-1], dtype)
    if array.nbytes != nbytes(tensor):
        raise CotcliError(f"a tensor of {nbytes(tensor)} bytes does not fit an array of {array.nbytes}")
    _tensor_get(tensor, array.ctypes.data, 0, array.nbytes)
    return array


def device_of(tensor: Tensor) -> Device:
    """The device that holds a tensor's data; the CPU device for anything in host memory."""
    t = fields(tensor)
    buffer = fields(t.view_src).buffer if t.view_src else t.buffer
    buffer_type = _buffer_get_type(buffer)
    return cpu_device() if _buft_is_host(buffer_type) else int(_buft_get_device(buffer_type))


def cpu_device() -> Device:
    return int(_dev_by_type(DEVICE_TYPE_CPU))


def devices() -> list[Device]:
    return [int(_dev_get(i)) for i in range(_dev_count())]


def device_name(device: Device) -> str:
    return str(_dev_name(device).decode())


def device_description(device: Device) -> str:
    """The model of a device, such as a processor's or a GPU's name."""
    return str(_dev_description(device).decode("utf-8", "replace"))
