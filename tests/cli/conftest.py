"""A real model that writes noise without end, converted by the command that users run, and a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from tests.cli.process import cotcli


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint folder. Its special tokens are never the likeliest, so greedy text ends only at a limit."""
    folder = tmp_path_factory.mktemp("cli") / "noise"
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400)
    tensors = random_tensors(recipe)
    tensors["language_model.lm_head.weight"][-7:] = 0
    write_checkpoint(folder, recipe, tensors)
    return folder


@pytest.fixture(scope="session")
def noise(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The language GGUF of that checkpoint."""
    done = cotcli("convert", checkpoint, "--out", tmp_path_factory.mktemp("pair"), "--type", "f32", "--threads", 1)
    assert done.code == 0, done.err
    return Path(done.out.strip())


@pytest.fixture(scope="session")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for installed models."""
    monkeypatch.setenv("COTCLI_HOME", str(tmp_path / "home"))
    return tmp_path / "home"
