"""The devices ggml can compute on: what each is, how much memory it has, and other machines' devices over RPC.

Knows nothing of models. Source: ``ggml-backend.h`` and ``ggml-rpc.h`` of the bundled release.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, byref, c_bool, c_char_p, c_int, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache

from cotcli.errors import ResourceError, UsageError
from cotcli.native import ggml, ggml_backend, interrupt
from cotcli.native.library import PINNED, bind, llama_cpp
from cotcli.native.rpc_hello import check_server

CPU, GPU, IGPU, ACCELERATOR = "cpu", "gpu", "igpu", "accelerator"
_KINDS = (CPU, GPU, IGPU, ACCELERATOR, "meta")


class ggml_backend_dev_caps(Structure):
    _fields_ = (
        ("async_", c_bool),
        ("host_buffer", c_bool),
        ("buffer_from_host_ptr", c_bool),
        ("events", c_bool),
        ("mmap_support", c_bool),
    )


class ggml_backend_dev_props(Structure):
    _fields_ = (
        ("name", c_char_p),
        ("description", c_char_p),
        ("memory_free", c_size_t),
        ("memory_total", c_size_t),
        ("type", c_int),
        ("device_id", c_char_p),
        ("caps", ggml_backend_dev_caps),
    )


# void ggml_backend_dev_get_props(ggml_backend_dev_t device, struct ggml_backend_dev_props * props);
_dev_get_props = bind("ggml_backend_dev_get_props", None, c_void_p, POINTER(ggml_backend_dev_props))
# ggml_backend_reg_t ggml_backend_dev_backend_reg(ggml_backend_dev_t device);
_dev_backend_reg = bind("ggml_backend_dev_backend_reg", c_void_p, c_void_p)
# ggml_backend_buffer_type_t ggml_backend_dev_host_buffer_type(ggml_backend_dev_t device);
_dev_host_buffer_type = bind("ggml_backend_dev_host_buffer_type", c_void_p, c_void_p)
# ggml_backend_buffer_type_t ggml_backend_dev_buffer_type(ggml_backend_dev_t device);
_dev_buffer_type = bind("ggml_backend_dev_buffer_type", c_void_p, c_void_p)
# bool ggml_backend_dev_supports_op(ggml_backend_dev_t device, const struct ggml_tensor * op);
_dev_supports_op = bind("ggml_backend_dev_supports_op", c_bool, c_void_p, c_void_p)
# size_t ggml_backend_buft_get_alloc_size(ggml_backend_buffer_type_t buft, const struct ggml_tensor * tensor);
_buft_get_alloc_size = bind("ggml_backend_buft_get_alloc_size", c_size_t, c_void_p, c_void_p)
# ggml_backend_buffer_t ggml_backend_buft_alloc_buffer(ggml_backend_buffer_type_t buft, size_t size);
_buft_alloc_buffer = bind("ggml_backend_buft_alloc_buffer", c_void_p, c_void_p, c_size_t)
# ggml_backend_reg_t ggml_backend_reg_by_name(const char * name);
_reg_by_name = bind("ggml_backend_reg_by_name", c_void_p, c_char_p)
# const char * ggml_backend_reg_name(ggml_backend_reg_t reg);
_reg_name = bind("ggml_backend_reg_name", c_char_p, c_void_p)
# void * ggml_backend_reg_get_proc_address(ggml_backend_reg_t reg, const char * name);
_reg_get_proc_address = bind("ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p)
# void ggml_backend_register(ggml_backend_reg_t reg);
_register = bind("ggml_backend_register", None, c_void_p)

# ggml_backend_reg_t ggml_backend_rpc_add_server(const char * endpoint);
_RPC_ADD_SERVER = ctypes.CFUNCTYPE(c_void_p, c_char_p)
# ggml_backend_buffer_type_t * ggml_backend_dev_get_extra_bufts(ggml_backend_dev_t device);
_GET_EXTRA_BUFTS = ctypes.CFUNCTYPE(POINTER(c_void_p), c_void_p)

_started = False
_rpc_servers: set[str] = set()


def start() -> None:
    """``llama_backend_init``, once: from then on the devices are there."""
    global _started
    if not _started:
        llama_cpp.llama_backend_init()
        _started = True


@dataclass(frozen=True)
class DeviceInfo:
    """One device as it is now.

    Attributes:
        handle: ggml's device.
        kind: "cpu", "gpu", "igpu" (shares the host's memory), "accelerator" (helps the CPU, such as BLAS) or "meta".
        backend: "CPU", "CUDA", "RPC" and so on.
        total, free: bytes; both 0 where the device does not tell.
        id: tells which of several backends' devices are one piece of hardware; None where that is not known.
        host_memory: whether its memory is the host's.
        from_file: whether weights can stay in a mapped file and be computed on there.
        loads_mapped: whether libllama maps the file when this device takes part.
        host_buffers: whether libllama keeps what the CPU computes on in memory that this device can read.
    """

    handle: ggml_backend.Device
    name: str
    description: str
    kind: str
    backend: str
    total: int
    free: int
    id: str | None
    host_memory: bool
    from_file: bool
    loads_mapped: bool
    host_buffers: bool

    @property
    def known_memory(self) -> bool:
        return self.total > 0


def info(device: ggml_backend.Device) -> DeviceInfo:
    """What a device is; asks a GPU's driver, or the machine at the other end of RPC."""
    props = ggml_backend_dev_props()
    with interrupt.deferred():  # a backend may log, which comes back into Python
        _dev_get_props(device, byref(props))
        host_buffers = bool(_dev_host_buffer_type(device))
    kind = _KINDS[props.type]
    return DeviceInfo(
        handle=device,
        name=_text(props.name),
        description=_text(props.description),
        kind=kind,
        backend=_text(_reg_name(_dev_backend_reg(device))),
        total=int(props.memory_total),
        free=int(props.memory_free),
        id=_text(props.device_id) or None,
        host_memory=kind in (CPU, IGPU, ACCELERATOR) or bool(props.caps.buffer_from_host_ptr),
        from_file=bool(props.caps.buffer_from_host_ptr),
        loads_mapped=bool(props.caps.mmap_support),
        host_buffers=host_buffers,
    )


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def all_devices() -> list[DeviceInfo]:
    """Every device, in ggml's order."""
    start()
    return [info(device) for device in ggml_backend.devices()]


def cpu() -> DeviceInfo:
    """The CPU, whose memory is the host's."""
    return info(ggml_backend.cpu_device())


def offload_devices(devices: list[DeviceInfo]) -> list[DeviceInfo]:
    """Those that libllama would put layers on of its own accord, in its order: RPC, GPUs, else integrated GPUs.

    Hardware that several backends show counts once (llama.cpp's ``llama_prepare_model_devices``).
    """
    rpc = [device for device in devices if device.kind == GPU and device.backend == "RPC"]
    gpus: list[DeviceInfo] = []
    for device in devices:
        if device.kind != GPU or device.backend == "RPC":
            continue
        if device.id is None or all(device.id != other.id for other in gpus):
            gpus.append(device)
    igpus = [device for device in devices if device.kind == IGPU]
    igpus = [device for device in igpus if device.backend == igpus[0].backend]
    return [*rpc, *(gpus or igpus)]


@cache
def allocation(device: ggml_backend.Device, type_: int, *ne: int) -> int:
    """Bytes that a tensor of this type and shape takes on the device, its backend's padding included."""
    with ggml.Arena(1) as arena:
        return int(_buft_get_alloc_size(_dev_buffer_type(device), arena.tensor(type_, *ne)))


@cache
def repacks(type_: int, *ne: int) -> bool:
    """Whether libllama copies a matrix of this type and shape into a CPU's own layout, rather than map the file.

    As libllama finds it out: by asking whether the CPU would multiply with it from such a buffer.
    """
    cpu = ggml_backend.cpu_device()
    address = _reg_get_proc_address(_dev_backend_reg(cpu), b"ggml_backend_dev_get_extra_bufts")
    buffer_types = _GET_EXTRA_BUFTS(address)(cpu) if address else None
    index = 0
    while buffer_types and buffer_types[index]:
        with ggml.Arena(4) as arena:
            weight = arena.tensor(type_, *ne)
            product = arena.mul_mat(weight, arena.tensor(ggml.F32, ne[0], 512))
            with ggml_backend.Buffer(_buft_alloc_buffer(buffer_types[index], 0)) as empty:
                ggml.fields(weight).buffer = empty.handle
                if _dev_supports_op(cpu, product):
                    return True
        index += 1
    return False


def supports_rpc() -> bool:
    """Whether this build can use devices of other machines."""
    start()
    return bool(_reg_by_name(b"RPC"))


def add_rpc_server(endpoint: str) -> None:
    """Adds the devices of a machine that runs llama.cpp's ``rpc-server``, for the life of the process.

    Args:
        endpoint: ``HOST:PORT``.

    Raises:
        UsageError: that is not what the endpoint looks like.
        ResourceError: this build knows no RPC, or no server that it can use answers there.
    """
    host, colon, port = endpoint.rpartition(":")
    if not colon or not host or ":" in host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UsageError(f"an RPC server is named HOST:PORT, not {endpoint}", "For example: 192.168.1.20:50052")
    if endpoint in _rpc_servers:
        return
    if not supports_rpc():
        raise ResourceError(
            "this llama-cpp-python was built without RPC",
            "Build it so: CMAKE_ARGS=-DGGML_RPC=ON pip install --force-reinstall --no-cache-dir "
            f"--no-binary llama-cpp-python {PINNED}",
        )
    check_server(host, int(port))
    with interrupt.deferred():
        address = _reg_get_proc_address(_reg_by_name(b"RPC"), b"ggml_backend_rpc_add_server")
        server = _RPC_ADD_SERVER(address)(endpoint.encode())
        if not server:
            raise ResourceError(f"the RPC server at {endpoint} has no devices")
        _register(server)
    _rpc_servers.add(endpoint)
