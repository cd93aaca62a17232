"""Held-out sets: repeatable, disjoint, and written to a folder that another program can answer from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from training.held_out import held_out, write_folder
from cotcli.shapes.scenes import TRAIN_SEED_BITS, draw


def test_sets_repeat_and_do_not_overlap() -> None:
    assert held_out(20) == held_out(20)
    first, second = ({item.scene.seed for item in held_out(200, seed)} for seed in (0, 1))
    assert not first & second
    assert min(first | second) >= 2**TRAIN_SEED_BITS


def test_folder_holds_pictures_questions_and_truth(tmp_path: Path) -> None:
    items = held_out(7, seed=3)
    write_folder(items, tmp_path / "set")
    lines = [json.loads(line) for line in (tmp_path / "set" / "questions.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == 7
    for item, line in zip(items, lines, strict=True):
        with Image.open(tmp_path / "set" / line["image"]) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(draw(item.scene)))
        assert line["question"] == item.question.text and line["truth"] == item.question.truth
