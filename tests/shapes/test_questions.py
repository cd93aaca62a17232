"""Questions: truths against an independent count that reads the question's words, not its filters."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from cotcli.shapes.questions import KINDS, LETTERS, Question, make_question, make_questions
from cotcli.shapes.scenes import COLOURS, SHAPES, SIZES, Scene, make_scene

WORDS = {**{w: 0 for w in SIZES}, **{w: 1 for w in COLOURS}, **{w: 2 for w in SHAPES}}
PHRASE = re.compile(rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join((*SHAPES, 'object'))})s?\b")


def table(scene: Scene) -> np.ndarray:
    """The scene as words, shape = (objects, 3)."""
    return np.array([(item.size, item.colour, item.shape) for item in scene.objects])


def chosen(objects: np.ndarray, phrase: str) -> np.ndarray:
    """Which objects a phrase such as `small red circles` names; bool, shape = (objects,)."""
    picked = np.ones(len(objects), bool)
    for word in phrase.split():
        word = word if word in WORDS else word.removesuffix("s")
        if word in WORDS:
            picked &= objects[:, WORDS[word]] == word
    return picked


def read(question: Question, scene: Scene) -> str:
    """The truth found from the text of the question alone."""
    objects = table(scene)
    text = re.split(r"\s[A]\. ", question.text)[0]
    phrases = [found.group() for found in PHRASE.finditer(text)]
    if re.search(r"left|remain", text):
        gone = np.zeros(len(objects), bool)
        for phrase in phrases[:-1]:  # the last is "How many objects are left?"
            gone |= chosen(objects, phrase)
        return str(int((~gone).sum()))
    if "than" in text:
        a, b = (int(chosen(objects, phrase).sum()) for phrase in phrases)
        return "Yes" if (a > b if re.search(r"more|greater", text) else a < b) else "No"
    if re.search(r"\b(colour|shape)\b", text):
        (row,) = objects[chosen(objects, phrases[0])]
        return str(row[1 if "colour" in text else 2])
    number = int(chosen(objects, phrases[0]).sum())
    if re.match(r"How many|Count|What is the number", text):
        return str(number)
    return "Yes" if number else "No"


@pytest.mark.parametrize("kind", KINDS)
def test_truth_is_what_the_words_ask_for(kind: str) -> None:
    seen = set()
    for seed in range(400):
        scene = make_scene(seed)
        question = make_question(scene, random.Random(seed), kind)
        assert question.value == read(question, scene), question.text
        seen.add(question.value)
    assert len(seen) >= 2


def test_options_hold_the_truth_once_under_its_letter() -> None:
    lettered = 0
    for seed in range(400):
        question = make_question(make_scene(seed), random.Random(seed))
        if not question.options:
            assert question.truth == question.value
            continue
        lettered += 1
        assert len(set(question.options)) == len(question.options) <= len(LETTERS)
        assert question.options[LETTERS.index(question.truth)] == question.value
        for letter, option in zip(LETTERS, question.options, strict=False):
            assert f"{letter}. {option}" in question.text
    assert 100 < lettered < 220


def test_answers_are_not_given_away_by_their_frequency() -> None:
    for kind in ("compare", "exists"):
        values = [make_question(make_scene(seed), random.Random(seed), kind).value for seed in range(500)]
        assert 0.25 < values.count("Yes") / len(values) < 0.75


def test_same_seed_same_questions_and_different_kinds() -> None:
    scene = make_scene(5)
    assert make_questions(scene, 4, 1) == make_questions(scene, 4, 1)
    assert make_questions(scene, 4, 1) != make_questions(scene, 4, 2)
