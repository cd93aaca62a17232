"""``python -m convert`` as a user runs it, and what it takes of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from math import prod
from pathlib import Path

import pytest

from benchmarks.small_checkpoints import TINY, Recipe, edit_json, write_checkpoint
from convert import convert
from cotcli.mllama.tensor_names import language_tensors, mmproj_tensors


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_command(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    result = run(tmp_path / "tiny", "--out", tmp_path / "out", "--type", "q5_k_m", "--vision-type", "q8_0")
    assert (result.returncode, result.stdout) == (0, f"{tmp_path}/out/tiny-Q5_K_M.gguf\n"), result.stderr
    assert "\x1b" not in result.stderr
    expected = convert(tmp_path / "tiny", tmp_path, "q5_k_m", "q8_0")
    assert (tmp_path / "out" / "tiny-Q5_K_M.mmproj.gguf").read_bytes() == expected.mmproj.read_bytes()


def test_command_errors_have_their_exit_codes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    assert run(tmp_path / "tiny", "--out", tmp_path / "out", "--type", "q9").returncode == 2
    edit_json(tmp_path / "tiny" / "config.json", model_type="llava")
    result = run(tmp_path / "tiny", "--out", tmp_path / "out")
    assert (result.returncode, result.stdout) == (4, "")
    assert "model_type is 'llava'" in result.stderr and "Traceback" not in result.stderr


PEAK = """
import resource, sys
from convert import convert
convert(sys.argv[1], sys.argv[2], "q8_0", threads=2)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
"""


@pytest.mark.skipif(os.name == "nt", reason="getrusage is POSIX")
def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Six tensors of 256 MB, zeros in a sparse file: half of one would already show."""
    recipe = Recipe(intermediate_size=1 << 18, layers=2, cross_attention_layers=(1,))
    write_checkpoint(tmp_path / "small", TINY)
    write_zeros(tmp_path / "zeros", recipe)
    small, zeros = (
        int(subprocess.check_output([sys.executable, "-c", PEAK, str(tmp_path / name), str(tmp_path / "out")]))
        for name in ("small", "zeros")
    )
    assert zeros - small < 128_000_000


def write_zeros(folder: Path, recipe: Recipe) -> None:
    write_checkpoint(folder, recipe, tensors={})
    shapes = {s.hf_name: s.hf_shape for s in (*language_tensors(recipe.hparams.text), *mmproj_tensors(recipe.hparams))}
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
