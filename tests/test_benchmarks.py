"""The benchmarks of speed, at the size of the bundled model: that they run, and what they count."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import beside, speed, tower
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


@pytest.mark.skipif(find_spec("mistralrs") is not None, reason="it is not to be there")
def test_a_runtime_that_fails_is_a_note(tmp_path: Path) -> None:
    draw(make_scene(1)).save(tmp_path / "scene.png")
    started = beside.commands(
        tmp_path, "demo", tmp_path / "scene.png", 2, ["mistralrs"], beside.DTYPES, Path(sys.executable)
    )
    runs = beside.measure(started, rounds=2, limit=300)
    figures = beside.figures(runs)
    assert [figure.what for figure in figures] == [f"{phase}, cotcli" for phase in beside.PHASES]
    assert all(len(figure.values) == 2 for figure in figures)
    assert beside.notes(runs)[1:] == [
        "mistral.rs Q4K failed before the first phase's end: ModuleNotFoundError: No module named 'mistralrs'"
    ]
    stopped = beside.run(started["cotcli"], limit=0.01)
    assert stopped == beside.Run({}, "stopped after 0.01 s")


def test_where_rust_panicked_is_why_a_process_failed() -> None:
    stderr = """
thread '<unnamed>' (21338) panicked at src/vision_models/mllama/inputs_processor.rs:604:22:
`max_image_tiles` must be set!
stack backtrace:
   0: __rustc::rust_begin_unwind
Traceback (most recent call last):
ValueError: Response channel closed unexpectedly
"""
    assert beside.failure(stderr) == (
        "panicked at src/vision_models/mllama/inputs_processor.rs:604:22: `max_image_tiles` must be set!"
    )
    assert beside.failure("Traceback\nValueError: no\n\n") == "ValueError: no"
    assert beside.failure("") == ""
