"""Questions: truths against a reader of the question's words; places asked only where they are plain to the eye."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from functools import cache

import pytest

from cotcli.shapes.questions import (
    KINDS,
    LETTERS,
    NOT_HERE,
    STRANGERS,
    UNSEEN_STRANGERS,
    Filter,
    Question,
    make_question,
    make_questions,
    plural,
    with_article,
)
from cotcli.shapes.scenes import Scene
from tests.shapes.reading import OUTSIDE, fits, names, objects_of, outermost, outwards, read, scene_of

SEEDS = range(250)


@cache
def asked(seed: int, kind: str | None) -> Question:
    return make_question(scene_of(seed), random.Random(seed), kind)


def of_kind(kind: str) -> list[tuple[Scene, Question]]:
    """Scenes with questions of just that kind."""
    return [(scene_of(seed), asked(seed, kind)) for seed in SEEDS if asked(seed, kind).kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_truth_is_what_the_words_ask_for(kind: str) -> None:
    values = Counter[str]()
    for scene, question in of_kind(kind):
        assert question.value == read(question.text, objects_of(scene), scene.width, scene.height), question.text
        values[question.value] += 1
    assert set(values) == {NOT_HERE} if kind == "absent" else len(values) >= 2
    assert values.total() > 0.8 * len(SEEDS)


@pytest.mark.parametrize("kind", KINDS)
def test_filters_are_those_of_the_text(kind: str) -> None:
    for _, question in of_kind(kind):
        if OUTSIDE.search(question.text):
            assert kind == "absent" and question.filters == ()
            continue
        told = [tuple(word for word in found if word not in (None, "object")) for found in names(question.text)]
        meant = [tuple(w for w in (f.size, f.colour, f.shape) if w is not None) for f in question.filters]
        if kind == "subtract" and len(told) == len(meant) + 1:
            assert told.pop() == ()  # "how many objects are left"
        if kind == "extreme":
            assert told in ([()], []) and meant in ([], [("big",)])
        else:
            assert told == meant, question.text


def test_filter_matches_and_names_what_it_says() -> None:
    item = scene_of(3).objects[0]
    assert Filter().matches(item) and Filter().plural == "objects"
    assert Filter(item.size, item.colour, item.shape).matches(item)
    assert not Filter(size="small" if item.size == "big" else "big").matches(item)
    assert Filter("big", "red", "cross").plural == "big red crosses"
    assert Filter(colour="blue").singular == "blue object"
    assert (with_article("orange star"), with_article("red star")) == ("an orange star", "a red star")
    assert (plural("red cross"), plural("bench"), plural("hat")) == ("red crosses", "benches", "hats")


def test_scenes_without_such_a_question_are_asked_to_count() -> None:
    alone = [seed for seed in SEEDS if len(scene_of(seed).objects) == 1]
    assert {asked(seed, "relation").kind for seed in alone} == {"count"}
    assert all(asked(seed, kind).kind in (kind, "count") for seed in SEEDS for kind in KINDS)
    assert {asked(seed, None).kind for seed in SEEDS} == set(KINDS)


def test_options_hold_the_truth_once_under_its_letter() -> None:
    letters = Counter[str]()
    for question in (asked(seed, kind) for seed in SEEDS for kind in KINDS):
        if not question.options:
            assert question.truth == question.value and "A. " not in question.text
            continue
        letters[question.truth] += 1
        assert len(set(question.options)) == len(question.options) in (2, 4)
        assert question.options[LETTERS.index(question.truth)] == question.value
        listed = re.findall(r"([A-D])\. (\w+)", question.text)
        assert listed == list(zip(LETTERS, question.options, strict=False))
    assert 0.3 < letters.total() / (len(SEEDS) * len(KINDS)) < 0.45
    assert 0.6 < letters["A"] / letters["B"] < 1.6 and 0.6 < letters["C"] / letters["D"] < 1.6


def test_answers_are_not_given_away_by_their_frequency() -> None:
    for kind in ("compare", "exists", "relation"):
        values = [question.value for _, question in of_kind(kind)]
        assert 0.25 < values.count("Yes") / len(values) < 0.75
    for kind in ("attribute", "extreme"):
        commonest = Counter(question.value for _, question in of_kind(kind)).most_common(1)[0][1]
        assert commonest < 0.25 * len(of_kind(kind))


def test_relations_are_plain() -> None:
    """At least a tenth of the picture apart, and in different columns or rows of the grid."""
    for scene, question in of_kind("relation"):
        one, other = (next(item for item in objects_of(scene) if fits(item, named)) for named in names(question.text))
        axis, length = ("x", scene.width) if question.asks in ("left", "right") else ("y", scene.height)
        assert abs(one[axis] - other[axis]) >= 0.1 * length
        assert int(8 * one[axis] / length) != int(8 * other[axis] / length)


def test_extremes_are_plain() -> None:
    """The next object is clearly further in, by its centre; by its edge it is further in too."""
    places = set()
    asked_often = [
        (scene_of(seed), make_question(scene_of(seed), random.Random(f"{seed} {wording}"), "extreme"))
        for seed in range(400)
        for wording in range(8)
    ]
    for scene, question in asked_often:
        if question.kind != "extreme":
            continue
        objects = objects_of(scene)
        places.add(question.place)
        place = question.place if question.place.isalpha() else f"nearest the {question.place} corner"
        item = outermost(place, objects, scene.width, scene.height)
        rest = [other for other in objects if other is not item]
        out = outwards(place, item, scene.width, scene.height)
        unit = math.sqrt(scene.width * scene.height)
        if place == "largest":
            assert all(item["radius"] >= 1.5 * other["radius"] for other in rest)
            continue
        assert rest
        margin = 0.0799 if "corner" in place else 0.0499 if place.endswith("most") and place != "topmost" else 0.02
        assert all(outwards(place, other, scene.width, scene.height) - out >= margin * unit for other in rest)
        if place in ("topmost", "lowest"):
            assert all(abs(other["y"] - item["y"]) > 0.06 * scene.height for other in rest)
        if "corner" not in place:
            assert all(
                outwards(place, other, scene.width, scene.height) - other["radius"] > out - item["radius"]
                for other in rest
            )
    assert len(places) == 9


def test_the_same_seed_asks_the_same_and_kinds_do_not_repeat() -> None:
    scene = scene_of(5)
    assert make_questions(scene, 4, 1) == make_questions(scene, 4, 1) != make_questions(scene, 4, 2)
    for seed in range(40):
        kinds = Counter(question.kind for question in make_questions(scene_of(seed), 8, seed))
        assert kinds.total() == 8
        assert all(number == 1 for kind, number in kinds.items() if kind != "count")


def test_what_is_absent_is_asked_about_as_what_is_there() -> None:
    """Else the wording would give the refusal away."""
    openings = {kind: {question.text.split()[0] for _, question in of_kind(kind)} for kind in KINDS}
    absent = {
        make_question(scene_of(seed), random.Random(f"{seed} {wording}"), "absent").text.split()[0]
        for seed in SEEDS
        for wording in range(8)
    }
    for kind in KINDS:
        assert openings[kind] <= absent, kind
    for asks in ("colour", "shape", "size"):
        for kind in ("attribute", "extreme", "absent"):
            assert sum(question.asks == asks for _, question in of_kind(kind)) > 5, (kind, asks)
    outside = [bool(OUTSIDE.search(question.text)) for _, question in of_kind("absent")]
    assert 0.4 < sum(outside) / len(outside) < 0.6


def test_held_out_strangers_are_never_trained_on() -> None:
    assert not set(STRANGERS) & set(UNSEEN_STRANGERS)
    unseen = 0
    for seed in SEEDS:
        question = make_question(scene_of(seed), random.Random(seed), "absent", UNSEEN_STRANGERS)
        found = OUTSIDE.search(question.text)
        assert found is None or found[1] in UNSEEN_STRANGERS
        unseen += found is not None
        trained_on = OUTSIDE.search(asked(seed, "absent").text)
        assert trained_on is None or trained_on[1] in STRANGERS
    assert unseen > 80
