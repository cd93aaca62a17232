"""ggml's devices, and what computes and keeps tensors' values on them; one owner for each handle.

Source: ``ggml-backend.h``, ``ggml-alloc.h`` and ``ggml-cpu.h`` of the release that llama-cpp-python bundles.
"""

from __future__ import annotations

from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_size_t, c_uint32, c_void_p
from typing import Any

import numpy as np
import numpy.typing as npt

from cotcli.errors import CotcliError, ResourceError
from cotcli.native.ggml import Arena, Handle, Tensor, fields, nbytes
from cotcli.native.library import bind

Device = int

DEVICE_TYPE_CPU = 0
STATUS_ALLOC_FAILED, STATUS_SUCCESS = -2, 0


class ggml_threadpool_params(Structure):
    _fields_ = (
        ("cpumask", c_bool * 512),
        ("n_threads", c_int),
        ("prio", c_int),
        ("poll", c_uint32),
        ("strict_cpu", c_bool),
        ("paused", c_bool),
    )


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
        self.n_threads = threadpool.n_threads if self.is_cpu else 1
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
