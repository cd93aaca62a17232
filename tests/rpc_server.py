"""llama.cpp's RPC server on this machine's CPU, in a process of its own: `python -m tests.rpc_server HOST:PORT`."""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cotcli.native import devices, ggml_backend
from tests.cli.process import environment

# void ggml_backend_rpc_start_server(const char * endpoint, const char * cache_dir, size_t n_threads, size_t n_devices,
#                                    ggml_backend_dev_t * devices);
_START_SERVER = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)
)


def serve(endpoint: str) -> None:
    devices.start()
    address = devices._reg_get_proc_address(devices._reg_by_name(b"RPC"), b"ggml_backend_rpc_start_server")
    _START_SERVER(address)(endpoint.encode(), None, 1, 1, (ctypes.c_void_p * 1)(ggml_backend.cpu_device()))


def free_endpoint() -> str:
    """Where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextmanager
def rpc_server() -> Iterator[str]:
    """HOST:PORT of a server that lives as long as the block."""
    endpoint = free_endpoint()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.rpc_server", endpoint], stdout=subprocess.DEVNULL, env=environment()
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) == 0:
                    break
            assert server.poll() is None and time.monotonic() < deadline, "the RPC server does not come up"
            time.sleep(0.1)
        yield endpoint
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    serve(sys.argv[1])
