"""What a guess gets right that reads the question and never looks: the floor under the arms of the comparison.

Knows what a question's words give away: what is asked, about sets of which attributes, and whether a thing outside the
world is named. Knows nothing about models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from cotcli.shapes.questions import ATTRIBUTES, KINDS, LETTERS, NOT_HERE, RELATIONS, Question, make_questions
from cotcli.shapes.scenes import make_scene
from training.held_out import Item

_Form = tuple[object, ...]


def taught(scenes: int, each: int = 2) -> list[Question]:
    """`each` questions about each of the first so many scenes of training."""
    return [question for seed in range(scenes) for question in make_questions(make_scene(seed), each, seed)]


def blind_answers(items: Sequence[Item], learned: Iterable[Question]) -> list[str]:
    """For each item the commonest truth of questions of its form; among options, the commonest of these."""
    seen: defaultdict[_Form, Counter[str]] = defaultdict(Counter)
    for question in learned:
        seen[_form(question)][question.value] += 1
    return [f"<CONCLUSION>{_guess(item.question, seen[_form(item.question)])}</CONCLUSION>" for item in items]


def _guess(question: Question, seen: Counter[str]) -> str:
    if question.options:
        return LETTERS[max(range(len(question.options)), key=lambda index: seen[question.options[index]])]
    return seen.most_common(1)[0][0] if seen else NOT_HERE


def _form(question: Question) -> _Form:
    """What the words tell. Whether the objects named are there is not in them, so that `absent` is no form."""
    named = tuple(tuple(getattr(found, word) is not None for word in ATTRIBUTES) for found in question.filters)
    kind = question.kind
    if kind == "absent" and question.filters:
        kind = "relation" if question.asks in RELATIONS else "attribute"
    return (KINDS.index(kind), question.asks, question.place, named)
