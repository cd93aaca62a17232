"""The options that say where to compute, on a machine that may have nothing but its CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from tests.cli.process import cotcli

QUESTION = "How many circles are there?"


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["--gpu-layers", "some"], ["--gpu-layers takes auto, all or a number of layers, not some"]),
        (["--gpu-layers", "-2"], ["--gpu-layers"]),
        (["--gpu-layers", "2147483648"], ["--gpu-layers"]),
        (["--device", "cpu", "--gpu-layers", "3"], ["--device cpu puts no layers on a GPU"]),
        (["--device", "cpu", "--require-gpu"], ["--require-gpu and --device cpu exclude each other"]),
        (["--gpu-layers", "0", "--require-gpu"], ["--require-gpu and --gpu-layers 0 exclude each other"]),
        (["--device", "nosuch"], ["there is no device nosuch", "There are: cpu", "cotcli doctor"]),
        (["--device", "cpu,nosuch"], ["--device cpu stands alone"]),
        (["--kv-type", "q8_0"], ["--kv-type", "f16"]),
        (["--rpc", "localhost"], ["an RPC server is named HOST:PORT, not localhost"]),
        (["--rpc", "localhost:0"], ["HOST:PORT"]),
    ],
)
def test_usage(picture: Path, args: list[str], texts: list[str]) -> None:
    done = cotcli("ask", QUESTION, picture, "--model", "demo", *args)
    assert (done.code, done.out) == (2, "")
    for text in texts:
        assert text in done.err
    assert len(done.err.splitlines()) == 2


def test_the_cpu_alone(picture: Path, noise: Path) -> None:
    common = ("ask", QUESTION, picture, "--model", noise, "--max-tokens", 1, "--json", "--threads", 1)
    for args in (["--device", "cpu"], ["--device", "CPU", "--gpu-layers", "auto"], ["--gpu-layers", "0"]):
        done = cotcli(*common, *args)
        assert json.loads(done.out)["model"]["device"] == "CPU"
        assert "GPU" not in done.err


def test_what_cannot_fit_is_refused_before_it_is_loaded(picture: Path) -> None:
    """A key-value cache of 2**31 - 1 tokens takes 4 TB at the bundled model's size."""
    done = cotcli("ask", QUESTION, picture, "--model", "demo", "--ctx", 2**31 - 1, "--json")
    assert done.code == 5
    record = json.loads(done.out)
    assert record["error"]["code"] == "resource"
    assert "of memory and" in record["error"]["message"] and "is free" in record["error"]["message"]
    assert record["error"]["hint"].startswith("It would fit with --ctx ")


def test_a_context_below_the_proposed_one_is_taken(picture: Path, noise: Path) -> None:
    """The proposed one would fill up to half of this machine; that it fits is `tests/test_placement.py`'s."""
    done = cotcli("ask", QUESTION, picture, "--model", noise, "--ctx", 2**31 - 1)
    proposed = int(done.err.partition("--ctx ")[2].split(";")[0])
    assert proposed > 4096
    again = cotcli("ask", QUESTION, picture, "--model", noise, "--ctx", 4096, "--max-tokens", 1)
    assert again.code == 6  # it writes, and is cut


def test_kv_type_is_heeded(picture: Path) -> None:
    """The same greedy answer from both; what the cache takes is in llama.cpp's log."""
    answers = {}
    for kind, bits in (("f16", "f16"), ("f32", "f32")):
        done = cotcli("ask", QUESTION, picture, "--model", "demo", "--kv-type", kind, "-vv", "--max-tokens", 2)
        assert f"K ({bits})" in done.err
        answers[kind] = done.out
    assert answers["f16"] == answers["f32"]


def test_weights_are_repacked_where_that_is_asked_for(picture: Path, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint", Recipe(hidden_size=256, intermediate_size=512))
    model = convert(tmp_path / "checkpoint", tmp_path, "q4_k_m", name="wide").language
    batch = ["batch", QUESTION, picture, "--model", model, "--stages", "none", "-vv", "--max-tokens", 2]
    for options, is_there in (([], False), (["--repack"], True)):
        assert ("CPU_REPACK model buffer" in cotcli(*batch, *options).err) == is_there
