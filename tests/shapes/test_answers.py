"""Staged answers: well-formed, true to the scene at every stage; and the judge, case by case."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest

from cotcli.shapes.answers import (
    STAGES,
    join_stages,
    judge,
    make_answer,
    make_reasoning,
    make_stages,
    matches,
    split_stages,
)
from cotcli.shapes.questions import KINDS, Question, make_question
from cotcli.shapes.scenes import COLOURS, Scene
from tests.shapes.reading import OUTSIDE, Object, fits, names, objects_of, scene_of

SEEDS = range(120)
CORNERS = {"top left": "A1", "top right": "H1", "bottom left": "A8", "bottom right": "H8"}


@cache
def asked(seed: int, kind: str) -> tuple[Scene, Question, str]:
    scene, rng = scene_of(seed), random.Random(seed)
    question = make_question(scene, rng, kind)
    return scene, question, make_answer(scene.seen, question, rng)


def stage(answer: str, tag: str) -> str:
    return answer.split(f"<{tag}>")[1].split(f"</{tag}>")[0]


def of_kind(kind: str) -> Iterator[tuple[Scene, Question, list[Object], str]]:
    """Scene, question, its objects from left to right and the reasoning."""
    for scene, question, answer in (asked(seed, kind) for seed in SEEDS):
        if question.kind == kind:
            objects = sorted(objects_of(scene), key=lambda item: float(item["x"]))
            yield scene, question, objects, stage(answer, "REASONING")


def name(item: Object) -> str:
    return f"{item['size']} {item['colour']} {item['shape']}"


def cell(item: Object, scene: Scene) -> str:
    return "ABCDEFGH"[int(8 * item["x"] / scene.width)] + "12345678"[int(8 * item["y"] / scene.height)]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_well_formed_and_right(kind: str) -> None:
    for scene, question, answer in (asked(seed, kind) for seed in SEEDS):
        verdict = judge(answer, question)
        assert verdict.well_formed and verdict.correct and verdict.conclusion == question.truth
        assert re.findall(r"</?[A-Z]+>\n\n<", answer) == ["</SUMMARY>\n\n<", "</CAPTION>\n\n<", "</REASONING>\n\n<"]
        listed = re.findall(r"^(\d)\. (\w+ \w+ \w+)(?: ([A-H]\d))?$", stage(answer, "CAPTION"), re.MULTILINE)
        by_x = sorted(objects_of(scene), key=lambda item: float(item["x"]))
        places = re.search(r"left of|right of|above|below|topmost|lowest|corner", question.text)
        places = None if OUTSIDE.search(question.text) else places
        assert listed == [(str(i), name(o), cell(o, scene) if places else "") for i, o in enumerate(by_x, 1)]


def remarks(reasoning: str) -> list[tuple[str, str, str]]:
    """(object, what is said of it, what has come out so far), one for each object."""
    return re.findall(r"((?:small|big) \w+ \w+(?: [A-H]\d)?)(?:: ([^;()]+))? \(([^()]+)\)", reasoning)


@pytest.mark.parametrize("kind", ["count", "subtract", "exists"])
def test_reasoning_answers_each_part_and_counts_what_is_kept(kind: str) -> None:
    for _, question, objects, reasoning in of_kind(kind):
        parts = names(question.text)
        if kind == "subtract" and parts[-1] == (None, None, "object"):
            parts.pop()
        kept = 0
        for item, (told, words, count) in zip(objects, remarks(reasoning), strict=True):
            fitting = [fits(item, named) for named in parts]
            assert told == name(item) and words == flags(parts, fitting)
            if kind == "subtract":
                counted = fitting.pop() if "of the second" in question.asks else True
                kept += counted and not any(fitting)
            else:
                kept += fitting[0]
            assert int(count) == kept
        assert f"The total is {kept}" in reasoning


@pytest.mark.parametrize("kind", ["attribute", "absent"])
def test_reasoning_keeps_what_is_asked_of_the_object_named(kind: str) -> None:
    outside = 0
    for _, question, objects, reasoning in of_kind(kind):
        if OUTSIDE.search(question.text):
            assert reasoning == "It asks for something else than these shapes, so it is not in this picture."
            outside += 1
            continue
        if len(names(question.text)) == 2:
            continue  # of places, see below
        (named,) = names(question.text)
        found = "none"
        for item, (told, words, state) in zip(objects, remarks(reasoning), strict=True):
            if fits(item, named) and found == "none":
                found = str(item[asked_for(question)])
            assert (told, words, state) == (name(item), flags([named], [fits(item, named)]), found)
        end = "It is not in this picture." if found == "none" else f"The {asked_for(question)} is {found}."
        assert reasoning.partition(" Options: ")[0].endswith(f"). {end}")
        assert (kind == "absent") == (found == "none")
    assert (outside > 10) == (kind == "absent")


def asked_for(question: Question) -> str:
    """Which of an object's words the question's text asks for."""
    (word,) = re.findall(r"\b(colour|shape|size)\b", question.text)
    return str(word)


def flags(parts: list[tuple[str | None, ...]], fitting: list[bool]) -> str:
    """What is asked of an object, each with its answer: `red no, small star yes`."""
    asked_of_it = [" ".join(word for word in named if word not in (None, "object")) or "object" for named in parts]
    return ", ".join(f"{words} {'yes' if fit else 'no'}" for words, fit in zip(asked_of_it, fitting, strict=True))


def test_compare_reasoning_counts_both_sides() -> None:
    for _, question, objects, reasoning in of_kind("compare"):
        counts = [(int(a), int(b)) for a, b in re.findall(r"\((\d):(\d)\)", reasoning)]
        one, other = names(question.text)[:2]
        told = re.findall(r"((?:small|big) \w+ \w+): ([^;()]+) \(", reasoning)
        assert told == [(name(o), flags([one, other], [fits(o, one), fits(o, other)])) for o in objects]
        assert counts == [
            (sum(fits(o, one) for o in objects[:i]), sum(fits(o, other) for o in objects[:i]))
            for i in range(1, len(objects) + 1)
        ]
        a, b = counts[-1]
        relation = "more than" if a > b else "fewer than" if b > a else "the same as"
        assert f"{a} is {relation} {b}, so {question.value.lower()}" in reasoning


@pytest.mark.parametrize("kind", ["relation", "absent"])
def test_relation_reasoning_finds_both_objects_and_compares_their_squares(kind: str) -> None:
    missing = 0
    for scene, question, objects, reasoning in of_kind(kind):
        if OUTSIDE.search(question.text) or len(names(question.text)) == 1:
            continue
        which = 0 if question.asks in ("left", "right") else 1
        both = names(question.text)
        places = ["none", "none"]
        for item, (told, words, state) in zip(objects, remarks(reasoning), strict=True):
            fitting = [fits(item, named) for named in both]
            places = [cell(item, scene)[which] if fit else old for fit, old in zip(fitting, places, strict=True)]
            assert (told, words) == (f"{name(item)} {cell(item, scene)}", flags(both, fitting))
            assert state == ":".join(places)
        if "none" in places:
            missing += 1
            lacking = " ".join(filter(None, both[places.index("none")]))
            assert reasoning.endswith(f". The {lacking} is not in this picture.")
            continue
        a, b = places
        assert f"{a} is {'before' if a < b else 'after'} {b}, so {question.value.lower()}" in reasoning
    assert (missing > 10) == (kind == "absent")


def test_extreme_reasoning_keeps_the_best_so_far_and_what_is_asked_of_it() -> None:
    seen = set()
    for scene, question, objects, reasoning in of_kind("extreme"):
        seen.add(question.place)
        asks = asked_for(question)
        if question.place in ("leftmost", "rightmost"):
            number = 1 if question.place == "leftmost" else len(objects)
            found = objects[number - 1]
            assert reasoning.startswith(
                f"The {question.place} is number {number}, the {name(found)}. The {asks} is {found[asks]}."
            )
            continue
        values: list[int] = []
        for item, (told, words, state) in zip(objects, remarks(reasoning), strict=True):
            square = cell(item, scene)
            if question.place == "largest":
                assert (told, words) == (name(item), "big yes" if item["size"] == "big" else "big no")
                values.append(0 if item["size"] == "big" else 1)
                assert state == ("none" if min(values) else objects[values.index(0)][asks])
                continue
            assert told == f"{name(item)} {square}"
            if question.place in CORNERS:
                steps = [abs(ord(a) - ord(b)) for a, b in zip(square, CORNERS[question.place], strict=True)]
                assert words == f"{steps[0]}+{steps[1]}={sum(steps)}"
                values.append(sum(steps))
            else:
                assert words == ""
                values.append(int(square[1]) if question.place == "topmost" else -int(square[1]))
            assert state == f"{abs(min(values))} {objects[values.index(min(values))][asks]}"
    assert len(seen) == 9


def test_reasoning_ends_in_the_value_and_then_its_letter() -> None:
    lettered = 0
    for scene, question, answer in (asked(seed, kind) for seed in SEEDS for kind in KINDS):
        reasoning = make_reasoning(scene.seen, question)
        assert reasoning.text == stage(answer, "REASONING") and reasoning.value == question.value
        told, _, options = reasoning.text.partition(" Options: ")
        assert told.lower().endswith(f" {question.value.lower()}.")
        listed = question.text.replace("\n", " ").partition(" A. ")[2]  # the options up to the right one
        if listed:
            lettered += 1
            right = f"{question.truth}. {question.value}"
            assert options == ("A. " + listed).partition(right)[0] + f"{right}, so {question.truth}."
        else:
            assert not options
    assert lettered > 200


def test_what_is_seen_decides_not_what_is_there() -> None:
    """A colour that is seen wrongly changes the answer just as far as the question asks for it."""
    changed = 0
    for seed in SEEDS:
        scene, question, _ = asked(seed, "extreme")
        if question.kind != "extreme" or question.options or question.asks != "colour":
            continue
        turned = {a: b for a, b in pairwise([*COLOURS, next(iter(COLOURS))])}
        seen = [replace(item, colour=turned[item.colour]) for item in scene.seen]
        stages = make_stages(seen, question, random.Random(seed))
        assert stages[3] == turned[question.value]
        changed += 1
    assert changed > 10


@pytest.mark.parametrize(
    ("conclusion", "truth", "options", "right"),
    [
        ("3", "3", (), True),
        (" 3. ", "3", (), True),
        ("yes", "Yes", (), True),
        ("No.", "Yes", (), False),
        ("13", "3", (), False),
        ("", "3", (), False),
        ("B", "B", ("2", "3"), True),
        ("(b).", "B", ("2", "3"), True),
        ("B. 3", "B", ("2", "3"), True),
        ("3", "B", ("2", "3"), True),
        ("A", "B", ("2", "3"), False),
        ("A. 3", "B", ("2", "3"), False),
        ("A or B", "B", ("2", "3"), False),
        ("not in this picture.", "Not in this picture", (), True),
    ],
)
def test_what_counts_as_right(conclusion: str, truth: str, options: tuple[str, ...], right: bool) -> None:
    assert matches(conclusion, truth, options) is right


ASKED = Question("count", "How many red circles are there?", (), "", "", "2", (), "2")
GOOD = "<SUMMARY>a</SUMMARY>\n\n<CAPTION>b</CAPTION>\n\n<REASONING>c 3</REASONING>\n\n<CONCLUSION>2</CONCLUSION>"


@pytest.mark.parametrize(
    ("answer", "correct", "well_formed"),
    [
        (GOOD, True, True),
        (GOOD.replace("\n\n", " "), True, True),
        (GOOD.replace(">2<", ">3<"), False, True),
        (GOOD.replace("<CAPTION>b</CAPTION>\n\n", ""), True, False),
        (GOOD + " and more", True, False),
        (GOOD.replace("\n\n", " and ", 1), True, False),
        (GOOD.replace("c 3", "<CAPTION>c"), True, False),
        (GOOD.replace("CAPTION", "X").replace("SUMMARY", "CAPTION").replace("X", "SUMMARY"), True, False),
        (GOOD + "\n\n<CONCLUSION>3</CONCLUSION>", False, False),
        ("<CONCLUSION>3</CONCLUSION>\n\n" + GOOD, True, False),
        (GOOD.removesuffix("</CONCLUSION>"), False, False),
        ("2", False, False),
    ],
)
def test_judge_reads_the_last_conclusion_only(answer: str, correct: bool, well_formed: bool) -> None:
    verdict = judge(answer, ASKED)
    assert (verdict.correct, verdict.well_formed) == (correct, well_formed)


def test_stages_split_as_they_were_joined() -> None:
    stages = ("a\nb", "<c>", "", "d < e")
    assert split_stages(join_stages(stages)) == stages
    assert split_stages(f"\n {join_stages(stages)} \n") == stages


def test_repeated_tags_are_refused_quickly() -> None:
    chain = "</SUMMARY><CAPTION></CAPTION><REASONING></REASONING><CONCLUSION></CONCLUSION>"
    began = time.process_time()
    assert split_stages("<SUMMARY>" + chain * 200 + "x") is None
    assert split_stages("".join(f"<{tag}>" for tag in STAGES) * 500) is None
    assert time.process_time() - began < 0.5
