"""Held-out sets: repeatable, disjoint, balanced, and written for others to answer; scores that say what went wrong."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cotcli.cli.drawn import FIRST_SEED
from cotcli.shapes.check import check
from cotcli.shapes.questions import KINDS, STRANGERS, UNSEEN_STRANGERS, make_question
from cotcli.shapes.record import read_truth
from cotcli.shapes.scenes import TRAIN_SEED_BITS, draw, make_scene
from tests.shapes.reading import objects_of, read
from training.held_out import MAX_SET, Item, held_out, score, write_folder


def test_sets_repeat_and_do_not_overlap() -> None:
    assert held_out(20) == held_out(20) == held_out(30)[:20]
    first, second = ([item.scene.seed for item in held_out(200, seed)] for seed in (0, 1))
    assert len(set(first + second)) == 400
    assert min(first + second) >= 2**TRAIN_SEED_BITS


def test_no_set_reaches_into_training_s_scenes_or_the_demo_s() -> None:
    last = held_out(3, MAX_SET)
    assert min(item.scene.seed for item in held_out(3)) >= 2**TRAIN_SEED_BITS
    assert max(item.scene.seed for item in last) < FIRST_SEED <= last[0].scene.seed + 2_000_000
    for seed in (-1, MAX_SET + 1):
        with pytest.raises(ValueError, match=f"from 0 to {MAX_SET}, not {seed}"):
            held_out(1, seed)


def test_every_kind_is_asked_equally_often() -> None:
    for seed in range(3):
        assert Counter(item.question.kind for item in held_out(80, seed)) == dict.fromkeys(KINDS, 10)
    assert [item.question.kind for item in held_out(10)] == [*KINDS, *KINDS[:2]]


def test_truth_and_reference_are_right() -> None:
    for item in held_out(160, 2):
        scene, question = item.scene, item.question
        assert question.value == read(question.text, objects_of(scene), scene.width, scene.height)
        assert check(item.reference, scene, question).fault is None


def test_things_that_training_never_names_are_asked_for() -> None:
    def about(strangers: Sequence[str]) -> int:
        named = re.compile(rf"\b(?:{'|'.join(map(re.escape, strangers))})(?:e?s)?\b")
        return sum(bool(named.search(text)) for text in texts)

    texts = [item.question.text for item in held_out(400)]
    assert about(UNSEEN_STRANGERS) > 15 and about(STRANGERS) == 0
    texts = [make_question(make_scene(seed), random.Random(seed), "absent").text for seed in range(400)]
    assert about(STRANGERS) > 150 and about(UNSEEN_STRANGERS) == 0


def test_score_counts_by_kind_and_by_the_stage_that_went_wrong() -> None:
    items = held_out(16)
    answers = [item.reference for item in items]
    answers[0] = "nothing"
    answers[9] = re.sub(r"<CONCLUSION>.*<", "<CONCLUSION>none<", answers[9])
    turned = {"small": "big", "big": "small"}  # still right: only the caption is wrong
    answers[11] = re.sub(r"(?<=\n1\. )\w+", lambda word: turned[word[0]], answers[11])
    answers[12] = re.sub(r"<SUMMARY>.*<", "<SUMMARY>I will sing.<", answers[12])
    result, verdicts = score(items, answers)
    assert [index for index, verdict in enumerate(verdicts) if not verdict.correct] == [0, 9]
    assert result.accuracy == 14 / 16 and result.well_formed == 15
    assert result.asked == dict.fromkeys(KINDS, 2)
    assert result.right == {**dict.fromkeys(KINDS, 2), items[0].question.kind: 1, items[9].question.kind: 1}
    assert result.faults == {"form": 1, "conclusion": 1} and result.lucky == 2
    assert [re.sub(" +", " ", line) for line in result.lines()] == [
        "all 14 / 16 87.5%",
        *(f"{kind} {result.right[kind]} / 2 {result.right[kind] / 2:.1%}" for kind in KINDS),
        "well-formed 15 / 16 93.8%",
        "wrong answers, by the stage that first went wrong",
        "form 1 / 2 50.0%",
        "summary 0 / 2 0.0%",
        "caption 0 / 2 0.0%",
        "reasoning 0 / 2 0.0%",
        "conclusion 1 / 2 50.0%",
        "right answers in spite of a stage that went wrong",
        "any 2 / 14 14.3%",
    ]


def test_right_answers_have_no_faults_and_none_has_no_score() -> None:
    items = held_out(16, 1)
    result, _ = score(items, [item.reference for item in items])
    assert result.accuracy == 1 and not result.faults and result.lucky == 0
    nothing: list[Item] = []
    assert score(nothing, [])[0].accuracy == 0


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_folder_holds_pictures_questions_and_truth(tmp_path: Path) -> None:
    items = held_out(9, seed=3)
    write_folder(items, tmp_path / "set")
    asked = lines(tmp_path / "set" / "questions.jsonl")
    truths = [read_truth(line) for line in lines(tmp_path / "set" / "truth.jsonl")]
    assert [line["id"] for line in asked] == [truth.id for truth in truths] == [f"{index:04d}" for index in range(9)]
    for item, line, truth in zip(items, asked, truths, strict=True):
        with Image.open(tmp_path / "set" / line["image"]) as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(draw(item.scene)))
        assert line["question"] == item.question.text and line["truth"] == item.question.truth
        assert line["kind"] == item.question.kind and line["answer"] == item.reference
        assert line["options"] == list(item.question.options)
        assert (truth.image, truth.scene.seed, truth.questions) == (line["image"], item.scene.seed, (item.question,))
        assert check(line["answer"], truth.scene, truth.questions[0]).fault is None


def test_a_folder_holds_one_set_only(tmp_path: Path) -> None:
    write_folder(held_out(6, 1), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 8
    with pytest.raises(ValueError, match=r"0004\.png, which is not of this set"):
        write_folder(held_out(4, 1), tmp_path)
    with pytest.raises(ValueError, match=r"questions\.jsonl, which is not of this set"):
        write_folder(held_out(6, 2), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_folder(held_out(6, 1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_folder(held_out(7, 1), tmp_path)
    assert len(lines(tmp_path / "questions.jsonl")) == len(lines(tmp_path / "truth.jsonl")) == 7
