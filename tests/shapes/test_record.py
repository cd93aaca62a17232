"""Truth as a record: JSON and back it is the same, and what is not of that form is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cotcli.shapes.questions import KINDS, make_questions
from cotcli.shapes.record import Truth, read_truth, truth_record
from cotcli.shapes.scenes import draw
from tests.shapes.reading import read, scene_of


def a_truth(seed: int) -> Truth:
    return Truth(f"{seed:03d}", f"image/{seed:03d}.png", scene_of(seed), tuple(make_questions(scene_of(seed), 6, seed)))


def through_json(truth: Truth) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(json.dumps(truth_record(truth)))
    return record


def test_the_same_comes_back_from_json() -> None:
    kinds, stored = set(), set()
    for seed in range(60):
        truth = a_truth(seed)
        back = read_truth(through_json(truth))
        assert back.scene == replace(truth.scene, objects=truth.scene.left_to_right)
        assert (back.id, back.image, back.questions) == (truth.id, truth.image, truth.questions)
        assert draw(back.scene).tobytes() == draw(truth.scene).tobytes()
        kinds |= {question.kind for question in back.questions}
        stored.add((back.scene.jpeg is None, back.scene.background.kind))
    assert kinds == set(KINDS) and len(stored) == 6


def test_a_record_says_what_others_need() -> None:
    """Each truth is found from the question's words and the objects alone."""
    for seed in range(60):
        record = through_json(a_truth(seed))
        for question in record["questions"]:
            assert question["value"] == read(question["text"], record["objects"], record["width"], record["height"])


def test_other_keys_are_left_alone() -> None:
    assert read_truth({"command": "cotcli demo", **through_json(a_truth(3))}) == read_truth(through_json(a_truth(3)))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda record: record.pop("scene_seed"), "scene_seed"),
        (lambda record: record.pop("id"), "id"),
        (lambda record: record.update(objects=7), "int"),
        (lambda record: record.update(width="wide"), "str"),
        (lambda record: record["objects"][0].pop("cell"), "cell"),
        (lambda record: record["objects"][0].update(cell="Z9"), "Z9"),
        (lambda record: record["objects"][0].update(hue=1), "hue"),
        (lambda record: record["questions"][0].pop("filters"), "filters"),
        (lambda record: record["questions"][0].pop("truth"), "truth"),
        (lambda record: record.update(background=None), "None"),
    ],
)
def test_what_is_of_another_form_is_refused(spoil: Callable[[dict[str, Any]], None], words: str) -> None:
    record = through_json(a_truth(3))
    spoil(record)
    with pytest.raises(ValueError, match="not a record of truth") as refused:
        read_truth(record)
    assert words in str(refused.value)
