"""What a guess gets right that reads the question and never looks: the floor under the arms of the comparison.

Knows what a question's words give away: what is asked, about sets of which attributes, and whether a thing outside the
world is named. Knows nothing about models.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from cotcli.shapes.questions import ATTRIBUTES, LETTERS, NOT_HERE, RELATIONS, Question, make_questions
from cotcli.shapes.scenes import make_scene
from training.held_out import Item

_Form = tuple[object, ...]


def taught(scenes: int, each: int = 2) -> list[Question]:
    """`each` questions about each of so many scenes, the ones that the comparison's arms learn from."""
    return [question for seed in range(scenes) for question in make_questions(make_scene(seed), each, seed)]


def blind_answers(items: Sequence[Item], learned: Iterable[Question]) -> list[str]:
    """For each item the commonest truth of questions of its form; among options, the commonest of these."""
    seen: defaultdict[_Form, Counter[str]] = defaultdict(Counter)
    for question in learned:
        for form in _forms(question):
            seen[form][question.value] += 1

    def guess(question: Question) -> str:
        return _guess(question, next((seen[form] for form in _forms(question) if form in seen), Counter()))

    return [f"<CONCLUSION>{guess(item.question)}</CONCLUSION>" for item in items]


def _guess(question: Question, seen: Counter[str]) -> str:
    if question.options:
        return LETTERS[max(range(len(question.options)), key=lambda index: seen[question.options[index]])]
    return seen.most_common(1)[0][0] if seen else NOT_HERE


def _forms(question: Question) -> tuple[_Form, _Form]:
    """What the words tell, all of it and its main part. Whether the objects named are there is not in them: to ask for
    an attribute or a relation of what is absent has the form of asking for that of what is there."""
    named = tuple(tuple(getattr(found, word) is not None for word in ATTRIBUTES) for found in question.filters)
    kind = question.kind
    if kind == "absent" and question.filters:
        kind = "relation" if question.asks in RELATIONS else "attribute"
    return (kind, question.asks, question.place, named), (kind, question.asks)
