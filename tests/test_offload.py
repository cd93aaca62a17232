"""Layers on a device whose memory is not the host's: ggml's RPC backend over loopback.

It computes on another process' CPU, but no pointer of it can be read, so it finds what a GPU would find: weights
that must be uploaded, hidden states that live elsewhere, layers on two devices. Runs where llama-cpp-python was built
with it: ``CMAKE_ARGS=-DGGML_RPC=ON pip install --no-cache-dir --no-binary llama-cpp-python llama-cpp-python==0.3.36``.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from convert import convert
from cotcli.engine import Engine, EngineOptions
from cotcli.errors import CotcliError
from cotcli.native import ggml
from cotcli.native.library import bind
from tests.checkpoints import write_checkpoint
from tests.engine_cases import CASES, KEPT_ROWS, KEPT_TOKENS, RECIPES
from tests.test_engine import GOLDEN, check_logits, relative_error

try:
    # ggml_backend_reg_t ggml_backend_rpc_add_server(const char * endpoint);
    rpc_add_server = bind("ggml_backend_rpc_add_server", ctypes.c_void_p, ctypes.c_char_p)
except CotcliError:
    pytest.skip("llama-cpp-python was built without GGML_RPC", allow_module_level=True)
# void ggml_backend_register(ggml_backend_reg_t reg);
register = bind("ggml_backend_register", None, ctypes.c_void_p)

SERVER = """
import ctypes, sys
from cotcli.native import ggml
from cotcli.native.library import bind
start = bind("ggml_backend_rpc_start_server", None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t,
             ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p))
start(sys.argv[1].encode(), None, 1, 1, (ctypes.c_void_p * 1)(ggml.cpu_device()))
"""
TOLERANCE = 1e-5
# On a device the vision tower's flash attention takes keys and values as F16, and with so few rows ggml's CPU code,
# which is what runs behind RPC, also sums in F16.
HALF_TOLERANCE = 1e-2


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen([sys.executable, "-c", SERVER, endpoint], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", int(endpoint.rpartition(":")[2]))) == 0:
                    break
            time.sleep(0.1)
        register(rpc_add_server(endpoint.encode()))
        yield next(name for name in map(ggml.device_name, ggml.devices()) if name.startswith("RPC"))
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("offload")
    write_checkpoint(folder / "checkpoint", RECIPES["mqa-neighbours"])
    converted = convert(folder / "checkpoint", folder, "f32", name="offload")
    return converted.language, converted.mmproj


@pytest.mark.parametrize(("gpu_layers", "on_device"), [(0, 0), (3, 1), (5, 3), (-1, 3)])
def test_logits_with_no_some_and_all_layers_offloaded(
    device: str, files: tuple[Path, Path], gpu_layers: int, on_device: int
) -> None:
    options = EngineOptions(gpu_layers=gpu_layers, threads=1, ubatch=48, context_length=512)
    with Engine(*files, options) as engine:
        places = [layer.backend.name for layer in engine._hook.layers]
        assert sum(place == device for place in places) == on_device
        for case in (case for case in CASES if case.recipe == "mqa-neighbours"):
            picture = case.picture
            if picture is None or on_device == 0:
                check_logits(engine, case)
                continue
            states = engine.encode(picture)  # type: ignore[arg-type]
            assert relative_error(states[KEPT_ROWS], GOLDEN[f"{case.name}/states"]) <= HALF_TOLERANCE
            check_logits(engine, case, HALF_TOLERANCE)


def test_language_side_alone_is_exact(device: str, files: tuple[Path, Path]) -> None:
    """States of the CPU, everything after them on the device."""
    cases = [case for case in CASES if case.recipe == "mqa-neighbours" and case.picture is not None]
    with Engine(*files, EngineOptions(threads=1)) as engine:
        states = [engine.encode(case.picture) for case in cases]  # type: ignore[arg-type]
    with Engine(*files, EngineOptions(gpu_layers=-1, threads=1, ubatch=48, context_length=512)) as engine:
        for case, state in zip(cases, states, strict=True):
            image = engine.load_image(state, case.ratio[0] * case.ratio[1])
            sequence = engine.sequence(image)
            engine.release_image(image)
            rows = np.stack([row.copy() for row in engine.each_logits(sequence, case.tokens)])
            engine.drop(sequence)
            assert relative_error(rows[KEPT_TOKENS], GOLDEN[f"{case.name}/logits"]) <= TOLERANCE
