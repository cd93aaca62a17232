"""Step 3: a Scene and a Question -> the four stages; and judging what a model wrote.

Knows the wording of answers. Knows nothing about pictures, tokens or models.
The caption lists the objects from left to right under numbers; the reasoning takes them in the same order and keeps a
running count, so that every step needs only the caption, the question and the step before. Where a question has
lettered options, the conclusion is the right option's text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from training.questions import LETTERS, Filter, Question
from training.scenes import Scene

STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
_FORM = re.compile(r"\s*" + r"\s*".join(rf"<{tag}>(.*?)</{tag}>" for tag in STAGES) + r"\s*", re.DOTALL)
_TAG = re.compile(rf"</?(?:{'|'.join(STAGES)})>")


@dataclass(frozen=True)
class Verdict:
    """`correct`: the conclusion is right; `well_formed`: the four stages, once each, in order, nothing outside."""

    correct: bool
    well_formed: bool
    conclusion: str | None


def make_answer(scene: Scene, question: Question, rng: random.Random) -> str:
    """The staged answer, as the model shall write it; `rng` chooses among wordings only."""
    stages = (
        _summary(question, rng),
        _caption(scene, rng),
        _reasoning(scene, question, rng),
        question.value,
    )
    return "\n\n".join(f"<{tag}>{text}</{tag}>" for tag, text in zip(STAGES, stages, strict=True))


def judge(answer: str, question: Question) -> Verdict:
    """Reads the conclusion only; case, a final period and brackets round a letter do not matter."""
    form = _FORM.fullmatch(answer)
    well_formed = form is not None and not any(_TAG.search(text) for text in form.groups())
    found = re.findall(r"<CONCLUSION>(.*?)</CONCLUSION>", answer, re.DOTALL)
    if not found:
        return Verdict(False, well_formed, None)
    conclusion = found[-1].strip()
    return Verdict(matches(conclusion, question.truth, question.options), well_formed, conclusion)


def matches(conclusion: str, truth: str, options: tuple[str, ...] = ()) -> bool:
    """Whether a conclusion says the truth. With options, `B`, `(b).`, `B. 3` and the option's own text all count."""
    said = _normal(conclusion)
    accepted = {_normal(truth)}
    if options:
        text = options[LETTERS.index(truth)]
        accepted |= {_normal(text), _normal(f"{truth} {text}")}
    return said in accepted


def _normal(text: str) -> str:
    return " ".join(re.sub(r"[().:]", " ", text).casefold().split())


def _summary(question: Question, rng: random.Random) -> str:
    opening = rng.choice(("I will", "I need to"))
    first, *rest = (found.plural for found in question.filters)
    if question.kind == "count":
        return f"{opening} count the {first}."
    if question.kind == "subtract":
        removed = f"the {first}" + (f" and the {rest[0]}" if rest else "")
        return f"{opening} remove {removed} and count the objects left."
    if question.kind == "compare":
        return f"{opening} compare the number of {first} and {rest[0]}."
    if question.kind == "exists":
        return f"{opening} look for a {question.filters[0].singular}."
    return f"{opening} find the {question.filters[0].singular} and name its {question.asks}."


def _caption(scene: Scene, rng: random.Random) -> str:
    opening = rng.choice(("From left to right:", "The picture shows, from left to right:"))
    return opening + "".join(f"\n{i}. {item.name}" for i, item in enumerate(scene.left_to_right, 1))


def _reasoning(scene: Scene, question: Question, rng: random.Random) -> str:
    opening = rng.choice(("I check each object:", "One by one:"))
    steps, result = _compare_steps(scene, question) if question.kind == "compare" else _steps(scene, question)
    return f"{opening} {', '.join(steps)}. {result}"


def _steps(scene: Scene, question: Question) -> tuple[list[str], str]:
    """One remark an object; the number in brackets counts those kept so far."""
    subtracting = question.kind == "subtract"
    kept, dropped = ("stays", "out") if subtracting else ("yes", "no")
    steps: list[str] = []
    count = 0
    for item in scene.left_to_right:
        if any(found.matches(item) for found in question.filters) != subtracting:
            count += 1
            steps.append(f"{item.name} {kept} ({count})")
        else:
            steps.append(f"{item.name} {dropped}")
    if subtracting:
        return steps, f"That leaves {count}."
    if question.kind == "count":
        return steps, f"The total is {count}."
    if question.kind == "exists":
        return steps, f"The total is {count}, so {question.value.lower()}."
    return steps, f"The {question.asks} is {question.value}."


def _compare_steps(scene: Scene, question: Question) -> tuple[list[str], str]:
    """One remark an object, with both running counts."""
    first, second = question.filters
    counts: dict[Filter, int] = {first: 0, second: 0}
    steps: list[str] = []
    for item in scene.left_to_right:
        for found in question.filters:
            counts[found] += found.matches(item)
        steps.append(f"{item.name} ({counts[first]}:{counts[second]})")
    a, b = counts[first], counts[second]
    relation = "more than" if a > b else "fewer than" if a < b else "the same as"
    return steps, f"{a} is {relation} {b}, so {question.value.lower()}."
