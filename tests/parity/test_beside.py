"""The benchmark beside other runtimes: cotcli and transformers, each in its process, answer the same question alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import beside
from benchmarks.figures import report
from convert import convert
from tests.parity import reference_models as reference


def test_both_take_the_same_steps(tmp_path: Path) -> None:
    """At F32 they choose the same tokens, after prompts of the same tokens; so the phases are of the same work."""
    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)).save(picture)
    reference.save(reference.make_model(reference.SHAPES[0]), tmp_path / "checkpoint")
    pair = convert(tmp_path / "checkpoint", tmp_path / "pair", "f32", name="reference")
    started = beside.commands(
        tmp_path / "checkpoint", str(pair.language), picture, 8, ["transformers"], ["float32"], Path()
    )
    runs = beside.measure(started, rounds=1, limit=300)
    ours, theirs = (one.facts for (one,) in runs.values())
    assert len(ours["ids"]) == ours["prompt_tokens"] + 8
    assert ours["ids"] == theirs["ids"]

    figures = beside.figures(runs)
    assert [one.what for one in figures[:3]] == [
        "load, cotcli",
        "load, transformers float32",
        "load, transformers float32: times cotcli's",
    ]
    assert len(figures) == 3 * len(beside.PHASES)
    assert all(value > 0 for one in figures for value in one.values)
    report(figures, tmp_path / "beside.json", beside.notes(runs))
    written = json.loads((tmp_path / "beside.json").read_text())
    assert [note.partition(":")[0] for note in written["notes"]] == ["cotcli", "transformers float32"]
