"""Step 3: what is seen and a Question -> the four stages; and judging what a model wrote.

Knows the wording of answers. Knows nothing about pictures, tokens or models.
The caption lists the objects from left to right under numbers, with their squares where the question is about places.
The reasoning takes them in the same order: for each the answer to every part of the question, then the count so far,
so that every step needs only the caption, the question and the step before. The conclusion is the answer alone.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cotcli.shapes.questions import (
    ATTRIBUTES,
    CORNERS,
    COUNTED,
    LETTERS,
    NOT_HERE,
    RELATIONS,
    Filter,
    Question,
    steps_to_corner,
    the_object,
    with_article,
)
from cotcli.shapes.scenes import Seen

STAGES = ("SUMMARY", "CAPTION", "REASONING", "CONCLUSION")
SUMMARY_OPENINGS = ("I will ", "I need to ")
CAPTION_OPENINGS = ("From left to right:", "The picture shows, from left to right:")
GRID_OPENING = "From left to right, on a grid from A1 to H8:"
_FORM = re.compile(r"\s*" + r"\s*".join(rf"<{tag}>(.*?)</{tag}>" for tag in STAGES) + r"\s*", re.DOTALL)
_TAG = re.compile(rf"</?(?:{'|'.join(STAGES)})>")
_TAGS = [f"<{slash}{tag}>" for tag in STAGES for slash in ("", "/")]


@dataclass(frozen=True)
class Verdict:
    """`correct`: the conclusion is right; `well_formed`: the four stages, once each, in order, nothing outside."""

    correct: bool
    well_formed: bool
    conclusion: str | None


@dataclass(frozen=True)
class Reasoning:
    """`text` without its opening words; `value` is what it comes to, the question's answer in words or digits."""

    text: str
    value: str


def make_stages(seen: Sequence[Seen], question: Question, rng: random.Random) -> tuple[str, str, str, str]:
    """Summary, caption, reasoning and conclusion, as the model shall write them; `rng` chooses among wordings only."""
    reasoning = make_reasoning(seen, question)
    return (
        rng.choice(SUMMARY_OPENINGS) + make_summary(question),
        make_caption(seen, question, rng),
        reasoning.text,
        conclude(reasoning.value, question),
    )


def make_answer(seen: Sequence[Seen], question: Question, rng: random.Random) -> str:
    """The staged answer, in LLaVA-CoT's tags."""
    return join_stages(make_stages(seen, question, rng))


def join_stages(stages: Sequence[str]) -> str:
    """The stages in their tags, as LLaVA-CoT writes them."""
    return "\n\n".join(f"<{tag}>{text}</{tag}>" for tag, text in zip(STAGES, stages, strict=True))


def split_stages(answer: str) -> tuple[str, str, str, str] | None:
    """The four stages of a well-formed answer; None when a stage is missing, repeated or out of order."""
    if _TAG.findall(answer) != _TAGS:  # first, as the form takes long to fail on tags repeated many times
        return None
    form = _FORM.fullmatch(answer)
    if form is None:
        return None
    summary, caption, reasoning, conclusion = (text.strip() for text in form.groups())
    return summary, caption, reasoning, conclusion


def judge(answer: str, question: Question) -> Verdict:
    """Reads the conclusion only; case, a final period and brackets round a letter do not matter."""
    well_formed = split_stages(answer) is not None
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


def needs_cells(question: Question) -> bool:
    """Whether the caption must say where objects lie: the order from left to right alone does not decide."""
    return question.asks in RELATIONS or question.place in ("topmost", "lowest", *CORNERS)


def make_summary(question: Question) -> str:
    """What is to be done, after one of the openings."""
    names = [found.plural for found in question.filters]
    if question.kind == "count":
        return f"count the {names[0]}."
    if question.kind == "subtract":
        if question.asks == COUNTED:
            return f"remove the {names[0]} and count the {names[1]} left."
        return f"remove the {' and the '.join(names)} and count the objects left."
    if question.kind == "compare":
        return f"compare the number of {names[0]} and {names[1]}."
    if question.asks in RELATIONS:
        one, other = (found.singular for found in question.filters)
        return f"see whether the {one} is {RELATIONS[question.asks]} the {other}."
    if question.kind == "extreme":
        return f"find {the_object(question.place)} and name its {question.asks}."
    if not question.filters:
        return "look for what the question names."
    single = question.filters[0].singular
    if question.kind == "exists":
        return f"look for {with_article(single)}."
    return f"find the {single} and name its {question.asks}."


def make_caption(seen: Sequence[Seen], question: Question, rng: random.Random) -> str:
    """The numbered list, with squares where the question needs them."""
    if needs_cells(question):
        return GRID_OPENING + "".join(f"\n{i}. {item.name} {item.cell}" for i, item in enumerate(seen, 1))
    return rng.choice(CAPTION_OPENINGS) + "".join(f"\n{i}. {item.name}" for i, item in enumerate(seen, 1))


def conclude(value: str, question: Question) -> str:
    """The letter of the option that says `value`, else `value` itself."""
    return LETTERS[question.options.index(value)] if value in question.options else value


def make_reasoning(seen: Sequence[Seen], question: Question) -> Reasoning:
    """The reasoning that follows from these objects, right or wrong as they are."""
    if question.kind == "compare":
        text, value = _compare(seen, question)
    elif question.asks in RELATIONS:
        text, value = _relation(seen, question)
    elif question.kind == "extreme" and question.place != "largest":
        text, value = _extreme(seen, question)
    elif not question.filters:
        text, value = "It asks for something else than these shapes, so it is not in this picture.", NOT_HERE
    else:
        text, value = _one_by_one(seen, question)
    if value in question.options:
        options = zip(LETTERS, question.options[: question.options.index(value) + 1], strict=False)
        listed = " ".join(f"{letter}. {option}" for letter, option in options)
        text = f"{text} Options: {listed}, so {conclude(value, question)}."
    return Reasoning(text, value)


def _one_by_one(seen: Sequence[Seen], question: Question) -> tuple[str, str]:
    """For each object yes or no to every filter; in brackets the number kept so far, or what is asked of the first."""
    subtracting, naming = question.kind == "subtract", question.asks in ATTRIBUTES
    steps: list[str] = []
    kept: list[Seen] = []
    for item in seen:
        answers = [found.matches(item) for found in question.filters]
        counted = answers.pop() if question.asks == COUNTED else True
        if (counted and not any(answers)) if subtracting else answers[0]:
            kept.append(item)
        state = _asked(kept[0] if kept else None, question) if naming else str(len(kept))
        steps.append(f"{item.name}: {_flags(item, question)} ({state})")
    told = f"One by one: {'; '.join(steps)}."
    if question.kind in ("count", "subtract"):
        return f"{told} The total is {len(kept)}.", str(len(kept))
    if question.kind == "exists":
        value = "Yes" if kept else "No"
        return f"{told} The total is {len(kept)}, so {value.lower()}.", value
    if not kept:
        return f"{told} It is not in this picture.", NOT_HERE
    return _found(told, kept[0], question)


def _flags(item: Seen, question: Question) -> str:
    """For example `small no, red circle yes`."""
    return ", ".join(f"{found.words} {'yes' if found.matches(item) else 'no'}" for found in question.filters)


def _asked(item: Seen | None, question: Question) -> str:
    """What the question asks of an object, `none` as long as there is none."""
    return "none" if item is None else str(getattr(item, question.asks))


def _found(told: str, item: Seen, question: Question) -> tuple[str, str]:
    value = _asked(item, question)
    return f"{told} The {question.asks} is {value}.", value


def _compare(seen: Sequence[Seen], question: Question) -> tuple[str, str]:
    """One remark an object, with both running counts."""
    counts: dict[Filter, int] = dict.fromkeys(question.filters, 0)
    steps: list[str] = []
    for item in seen:
        for found in question.filters:
            counts[found] += found.matches(item)
        steps.append(f"{item.name}: {_flags(item, question)} ({':'.join(str(count) for count in counts.values())})")
    a, b = counts.values()
    relation = "more than" if a > b else "fewer than" if a < b else "the same as"
    value = "Yes" if relation == f"{question.asks} than" else "No"
    return f"One by one: {'; '.join(steps)}. {a} is {relation} {b}, so {value.lower()}.", value


def _relation(seen: Sequence[Seen], question: Question) -> tuple[str, str]:
    """One remark an object; in brackets the columns or rows of the two named objects, of the first that fits a name."""
    axis = 0 if question.asks in ("left", "right") else 1
    places = ["none", "none"]
    steps: list[str] = []
    for item in seen:
        for index, found in enumerate(question.filters):
            if found.matches(item) and places[index] == "none":
                places[index] = item.cell[axis]
        steps.append(f"{item.name} {item.cell}: {_flags(item, question)} ({':'.join(places)})")
    told = f"One by one: {'; '.join(steps)}."
    if "none" in places:
        return f"{told} The {question.filters[places.index('none')].singular} is not in this picture.", NOT_HERE
    a, b = places
    order = "before" if a < b else "after" if a > b else "the same as"
    value = "Yes" if order == ("before" if question.asks in ("left", "above") else "after") else "No"
    return f"{told} {a} is {order} {b}, so {value.lower()}.", value


def _extreme(seen: Sequence[Seen], question: Question) -> tuple[str, str]:
    """The first or last of the list; or one remark an object, in brackets the best row or number of steps to the
    corner so far, and what is asked of that object."""
    place = question.place
    if not seen:
        return "It is not in this picture.", NOT_HERE
    if place in ("leftmost", "rightmost"):
        number = 1 if place == "leftmost" else len(seen)
        item = seen[number - 1]
        return _found(f"The {place} is number {number}, the {item.name}.", item, question)
    best: tuple[int, Seen] | None = None
    steps: list[str] = []
    for item in seen:
        column, row = "ABCDEFGH".index(item.cell[0]), int(item.cell[1]) - 1
        if place in CORNERS:
            across, down = steps_to_corner(column, row, place)
            distance, shown = across + down, f"{item.cell}: {across}+{down}={across + down}"
        else:
            distance, shown = (row + 1 if place == "topmost" else -row - 1), item.cell
        if best is None or distance < best[0]:
            best = distance, item
        steps.append(f"{item.name} {shown} ({abs(best[0])} {_asked(best[1], question)})")
    assert best is not None
    return _found(f"One by one: {'; '.join(steps)}.", best[1], question)
