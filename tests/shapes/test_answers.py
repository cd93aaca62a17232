"""Staged answers: well-formed, true to the scene at every stage; and the judge, case by case."""

from __future__ import annotations

import random
import re

import pytest

from cotcli.shapes.answers import judge, make_answer, matches
from training.held_out import held_out, score
from cotcli.shapes.questions import KINDS, Question, make_question
from cotcli.shapes.scenes import make_scene

CASES = [(seed, kind) for seed in range(120) for kind in KINDS]


def stage(answer: str, tag: str) -> str:
    return answer.split(f"<{tag}>")[1].split(f"</{tag}>")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_well_formed_and_right(kind: str) -> None:
    for seed in range(120):
        scene, rng = make_scene(seed), random.Random(seed)
        question = make_question(scene, rng, kind)
        answer = make_answer(scene, question, rng)
        verdict = judge(answer, question)
        assert verdict.well_formed and verdict.correct
        assert re.findall(r"</?[A-Z]+>\n\n<", answer) == ["</SUMMARY>\n\n<", "</CAPTION>\n\n<", "</REASONING>\n\n<"]
        listed = re.findall(r"^(\d)\. (\w+ \w+ \w+)$", stage(answer, "CAPTION"), re.MULTILINE)
        by_x = sorted(scene.objects, key=lambda item: item.x)
        assert listed == [(str(i), f"{o.size} {o.colour} {o.shape}") for i, o in enumerate(by_x, 1)]


def test_reasoning_goes_through_the_caption_and_its_counts_climb() -> None:
    for seed in range(200):
        scene, rng = make_scene(seed), random.Random(seed)
        question = make_question(scene, rng, "subtract")
        answer = make_answer(scene, question, rng)
        steps = re.findall(r"(\w+ \w+ \w+) (out|stays)(?: \((\d)\))?[,.]", stage(answer, "REASONING"))
        assert [name for name, _, _ in steps] == [item.name for item in scene.left_to_right]
        counts = [int(count) for _, word, count in steps if word == "stays"]
        assert counts == list(range(1, len(counts) + 1))
        assert f"That leaves {question.value}." in answer
        assert len(counts) == int(question.value)


def test_compare_reasoning_counts_both_sides() -> None:
    for seed in range(200):
        scene, rng = make_scene(seed), random.Random(seed)
        question = make_question(scene, rng, "compare")
        last = re.findall(r"\((\d):(\d)\)", make_answer(scene, question, rng))[-1]
        totals = [sum(f.matches(item) for item in scene.objects) for f in question.filters]
        assert [int(n) for n in last] == totals


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
    ],
)
def test_what_counts_as_right(conclusion: str, truth: str, options: tuple[str, ...], right: bool) -> None:
    assert matches(conclusion, truth, options) is right


ASKED = Question("count", "How many red circles are there?", (), "", "2", (), "2")
GOOD = "<SUMMARY>a</SUMMARY>\n\n<CAPTION>b</CAPTION>\n\n<REASONING>c 3</REASONING>\n\n<CONCLUSION>2</CONCLUSION>"


@pytest.mark.parametrize(
    ("answer", "correct", "well_formed"),
    [
        (GOOD, True, True),
        (GOOD.replace("\n\n", " "), True, True),
        (GOOD.replace(">2<", ">3<"), False, True),
        (GOOD.replace("<CAPTION>b</CAPTION>\n\n", ""), True, False),
        (GOOD + " and more", True, False),
        (GOOD.replace("c 3", "<CAPTION>c"), True, False),
        (GOOD.removesuffix("</CONCLUSION>"), False, False),
        ("2", False, False),
    ],
)
def test_judge_reads_the_conclusion_only(answer: str, correct: bool, well_formed: bool) -> None:
    verdict = judge(answer, ASKED)
    assert (verdict.correct, verdict.well_formed) == (correct, well_formed)


def test_score_counts_by_kind() -> None:
    items = held_out(10)
    answers = [item.reference for item in items]
    answers[0] = "nothing"
    result, verdicts = score(items, answers)
    assert [verdict.correct for verdict in verdicts] == [False] + [True] * 9
    assert result.accuracy == 0.9 and result.well_formed == 9
    assert (
        result.asked.total() == 10 and result.right[items[0].question.kind] == result.asked[items[0].question.kind] - 1
    )
