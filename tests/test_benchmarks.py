"""The benchmarks of speed, at the size of the bundled model: that they run, and what they count."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import speed, tower
from benchmarks.figures import Figure, report
from benchmarks.random_checkpoint import LLAVA_COT
from cotcli.shapes.scenes import draw, make_scene


@pytest.mark.skipif(sys.platform == "win32", reason="what a process has used is asked for with wait4")
def test_speed_measures_everything_once(tmp_path: Path) -> None:
    draw(make_scene(1)).save(tmp_path / "scene.png")
    figures = speed.measure("demo", tmp_path / "scene.png", rounds=1)
    assert len({figure.what for figure in figures}) == len(figures)
    assert all(value > 0 for figure in figures for value in figure.values if figure.what != "the callback")
    report(figures, tmp_path / "speed.json")
    written = json.loads((tmp_path / "speed.json").read_text())
    assert [figure["what"] for figure in written["figures"]] == [figure.what for figure in figures]
    assert written["versions"]["llama-cpp-python"] and written["threads"] >= 1


def test_work_of_the_tower() -> None:
    """Four tiles of 1601 tokens, padded to 1608, through 40 layers of width 1280; `tests/parity` counts a small one."""
    assert tower.flops(LLAVA_COT) == pytest.approx(18.6e12, rel=0.005)


def test_aims() -> None:
    assert Figure("a", (1.0, 3.0, 2.0), at_most=2.0).is_reached
    assert not Figure("a", (1.0, 3.0, 2.5), at_most=2.0).is_reached
    assert Figure("a", (1.6,), at_least=1.6).is_reached
    assert Figure("a", (1.6,)).is_reached is None
