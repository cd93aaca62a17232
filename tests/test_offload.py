"""Layers on a device whose memory is not the host's: ggml's RPC backend over loopback.

It computes on another process' CPU, but no pointer of it can be read, so it finds what a GPU would find: weights that
must be uploaded, hidden states that live elsewhere, layers on two devices. Runs where llama-cpp-python was built with
it: `.ci/run` says how.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from convert import convert
from cotcli.native.devices import supports_rpc
from tests.cli.process import Finished, cotcli, environment
from tests.engine_cases import CASES, KEPT_ROWS, KEPT_TOKENS, RECIPES
from tests.offload_probe import RECIPE
from tests.rpc_server import free_endpoint, rpc_server
from tests.test_engine import GOLDEN, relative_error

# Where CI sets this, a build without RPC is a failure, not a reason to skip.
pytestmark = pytest.mark.skipif(
    not supports_rpc() and not os.environ.get("RPC_REQUIRED"), reason="llama-cpp-python was built without GGML_RPC"
)

TOLERANCE = 1e-5
# On a device the vision tower's flash attention takes keys and values as F16, and with so few rows ggml's CPU code,
# which is what runs behind RPC, also sums in F16.
HALF_TOLERANCE = 1e-2
DEVICE = "RPC0"
LAYERS = len(RECIPES[RECIPE].hparams.text.self_attention_layers) + 1
Probe = Callable[[int, str], dict[str, Any]]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with rpc_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def probe(server: str, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    folder = tmp_path_factory.mktemp("offload")
    write_checkpoint(folder / "checkpoint", RECIPES[RECIPE])
    pair = convert(folder / "checkpoint", folder, "f32", name="offload")

    def run(gpu_layers: int, what: str) -> dict[str, Any]:
        out = folder / f"{what}{gpu_layers}.npz"
        arguments = [out, server, pair.language, pair.mmproj, gpu_layers, what]
        command = [sys.executable, "-m", "tests.offload_probe", *map(str, arguments)]
        subprocess.run(command, check=True, env=environment(), timeout=600)
        with np.load(out) as stored:
            return dict(stored)

    return run


@pytest.mark.parametrize(("gpu_layers", "on_device"), [(0, 0), (3, 1), (5, 3), (-1, 3)])
def test_logits_with_no_some_and_all_layers_offloaded(probe: Probe, gpu_layers: int, on_device: int) -> None:
    result = probe(gpu_layers, "whole")
    assert result["places"].tolist().count(DEVICE) == on_device
    assert result["places"].tolist() == result["planned_places"].tolist()
    tolerance = HALF_TOLERANCE if on_device else TOLERANCE
    for case in (case for case in CASES if case.recipe == RECIPE):
        if case.picture is not None:
            states = result[f"{case.name}/states"][KEPT_ROWS]
            assert relative_error(states, GOLDEN[f"{case.name}/states"]) <= tolerance
        # A prompt without a picture never meets the tower's rounding.
        allowed = tolerance if case.picture is not None else TOLERANCE
        logits = result[f"{case.name}/logits"][KEPT_TOKENS]
        assert relative_error(logits, GOLDEN[f"{case.name}/logits"]) <= allowed


def test_language_side_alone_is_exact(probe: Probe) -> None:
    """States of the CPU, everything after them on the device."""
    result = probe(-1, "language")
    for case in (case for case in CASES if case.recipe == RECIPE):
        logits = result[f"{case.name}/logits"][KEPT_TOKENS]
        assert relative_error(logits, GOLDEN[f"{case.name}/logits"]) <= TOLERANCE


@pytest.mark.parametrize("gpu_layers", [3, -1])
def test_the_plan_is_what_is_allocated_on_the_device(probe: Probe, gpu_layers: int) -> None:
    result = probe(gpu_layers, "whole")
    [planned] = result["planned"].tolist()
    name, weights, cache = planned.split()
    allocated = {tuple(line.split()[:2]): float(line.split()[2]) for line in result["allocated"].tolist()}
    assert name == DEVICE
    assert float(weights) == pytest.approx(allocated[DEVICE, "model"], abs=0.02 * 2**20)
    assert float(cache) == pytest.approx(allocated[DEVICE, "KV"], abs=0.02 * 2**20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random F32 weights: the likeliest token leads by a hundred times what rounding moves it."""
    folder = tmp_path_factory.mktemp("noise")
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400)
    tensors = random_tensors(recipe)
    tensors["language_model.lm_head.weight"][-7:] = 0  # greedy text ends only at a limit
    write_checkpoint(folder / "checkpoint", recipe, tensors)
    return convert(folder / "checkpoint", folder, "f32", name="noise").language


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def ask(pair: Path, picture: Path) -> Callable[..., Finished]:
    def run(*args: object) -> Finished:
        common = ("--model", pair, "--threads", 1, "--no-image-cache", "--json", "--max-tokens", 24, "--temperature", 0)
        return cotcli("ask", "What is it?", picture, *common, *args)

    return run


@pytest.fixture(scope="module")
def text_of_the_cpu(ask: Callable[..., Finished]) -> str:
    done = ask("--device", "cpu")
    record = json.loads(done.out)
    assert record["finish_reason"] == "length" and len(record["raw"]) >= 24
    return str(record["raw"])


@pytest.mark.parametrize(
    ("layers", "device", "note"),
    [
        ("0", "CPU", None),
        ("2", f"CPU+{DEVICE}", None),
        ("all", DEVICE, None),
        ("auto", DEVICE, f"cotcli: all 4 layers on {DEVICE}, vision on {DEVICE}"),
    ],
)
def test_the_same_greedy_text(
    server: str, ask: Callable[..., Finished], text_of_the_cpu: str, layers: str, device: str, note: str | None
) -> None:
    done = ask("--rpc", server, "--gpu-layers", layers)
    record = json.loads(done.out)
    assert record["model"]["device"] == device
    assert record["raw"] == text_of_the_cpu
    notes = [line for line in done.err.splitlines() if "layers" in line]
    assert notes == ([note] if note else [])


def test_options_of_devices(server: str, ask: Callable[..., Finished]) -> None:
    done = ask("--rpc", server, "--device", "rpc0", "--require-gpu", "--quiet")
    assert json.loads(done.out)["model"]["device"] == DEVICE and "layers" not in done.err
    done = ask("--rpc", server, "--device", "cpu")
    assert json.loads(done.out)["model"]["device"] == "CPU"
    done = ask("--rpc", server, "--device", "RPC7")
    assert done.code == 2 and f"There are: cpu, {DEVICE}" in done.err
    done = ask("--require-gpu")
    assert done.code == 5 and "nothing would run on a GPU" in done.err and "cotcli doctor" in done.err


def test_no_server(ask: Callable[..., Finished]) -> None:
    endpoint = free_endpoint()
    done = ask("--rpc", endpoint)
    assert done.code == 5
    assert f"no RPC server answers at {endpoint}" in done.err and "rpc-server" in done.err


@pytest.fixture
def mute() -> Iterator[str]:
    """HOST:PORT of what takes connections and says nothing, as a server does that another client is using."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_a_mute_server_is_not_waited_for(ask: Callable[..., Finished], mute: str) -> None:
    done = ask("--rpc", mute)
    assert done.code == 5, done.err
    assert f"what listens at {mute} does not answer" in done.err and "one client at a time" in done.err


def test_the_doctor_does_not_wait_for_a_mute_server(mute: str) -> None:
    done = cotcli("doctor", "--rpc", mute, "--json")
    assert done.code == 5
    report = json.loads(done.out)
    [problem] = report["problems"]
    assert "does not answer as an RPC server" in problem["message"]
    assert [device["name"] for device in report["devices"]] == ["CPU"] and report["devices"][0]["self_test"]["ok"]


def test_the_doctor_sees_the_device(server: str) -> None:
    done = cotcli("doctor", "--rpc", server, "--json")
    assert done.code == 0, done.out
    report = json.loads(done.out)
    Draft202012Validator(json.loads(cotcli("schema", "doctor").out)).validate(report)
    devices = {device["name"]: device for device in report["devices"]}
    assert set(devices) == {"CPU", DEVICE}
    test = devices[DEVICE]["self_test"]
    assert devices[DEVICE]["offload"] and test["ok"] and test["same_answer"], test
    [model] = report["models"]
    assert (model["name"], model["gpu_layers"], model["all_layers"]) == ("demo", 5, 5)
    assert model["notes"] == [f"all 5 layers on {DEVICE}, vision on {DEVICE}"]
