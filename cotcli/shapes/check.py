"""A staged answer -> the stages at which it went wrong, each judged by the stages before it.

Knows what every stage must say, in the wording of `answers`. Knows nothing about models, tokens or pictures: what is
to be seen is the scene's objects.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import shorten
from typing import Literal, get_args

from cotcli.shapes.answers import (
    CAPTION_OPENINGS,
    GRID_OPENING,
    STAGES,
    SUMMARY_OPENINGS,
    conclude,
    make_reasoning,
    make_summary,
    matches,
    needs_cells,
    split_stages,
)
from cotcli.shapes.questions import LETTERS, NOT_HERE, Question
from cotcli.shapes.scenes import COLOURS, SHAPES, SIZES, Scene, Seen

Stage = Literal["form", "summary", "caption", "reasoning", "conclusion"]
FAULTS: tuple[Stage, ...] = get_args(Stage)
_LINE = re.compile(rf"([0-9]+)\. ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?: ([A-H][1-8]))?")
_COMES_TO = re.compile(r"(?:\b(?:total|colour|shape|size) is (\w+)|\bso (\w+)|(not in this picture))\.$")
_STEP_END = re.compile(r"(?:;|(?<!\b[A-D])\.)(?: |$)")  # the period of `A. 5` ends no step


@dataclass(frozen=True)
class Fault:
    """A stage that went wrong, and in one plain sentence how."""

    stage: Stage
    detail: str


@dataclass(frozen=True)
class Check:
    """All that is wrong with an answer, in the order of the stages; empty when nothing is."""

    faults: tuple[Fault, ...]

    @property
    def fault(self) -> Stage | None:
        """The stage at which it first went wrong, None when it did not."""
        return self.faults[0].stage if self.faults else None

    @property
    def detail(self) -> str:
        """How it went wrong there, for example `caption line 3: small red star, the picture has small red cross`."""
        return self.faults[0].detail if self.faults else ""


def check(answer: str, scene: Scene, question: Question) -> Check:
    """Replays an answer, which may be any text, against the scene and the question.

    - `form`: the four stages are not there, once each and in order. Nothing else is looked at then.
    - `summary`: the question is misread.
    - `caption`: seen wrongly. Objects and their order must be exact; a square one column or row off, or one of each,
      is rounding and passes, unless the answer is wrong for no other reason.
    - `reasoning`: not what follows from the answer's own caption and the question, so that a wrong caption with sound
      reasoning is a fault of the caption alone.
    - `conclusion`: not what the answer's own reasoning comes to.

    An answer without a fault has the right conclusion; one with the right conclusion may have faults.

    Raises:
        ValueError: every stage is right, and yet the conclusion is not the question's truth, which was then computed
            for another scene. Where a stage is wrong, that is returned, and such a question not noticed.
    """
    stages = split_stages(answer)
    if stages is None:
        return Check((Fault("form", _malformed(answer)),))
    summary, caption, reasoning, conclusion = stages
    faults: list[Fault] = []
    asked = make_summary(question)
    if summary not in [opening + asked for opening in SUMMARY_OPENINGS]:
        faults.append(Fault("summary", f"the summary says {_quoted(summary)}, asked is to {asked.removesuffix('.')}"))
    captioned = read_caption(caption, question)
    value: str | None
    if isinstance(captioned, str):
        faults.append(Fault("caption", captioned))
        value = _comes_to(reasoning, question)
    else:
        if detail := _misseen(captioned, scene.seen):
            faults.append(Fault("caption", detail))
        made = make_reasoning(captioned, question)
        value = conclude(made.value, question)
        if reasoning != made.text:
            faults.append(Fault("reasoning", _first_step_apart(reasoning, made.text)))
            value = _comes_to(reasoning, question)
    if value is not None and not _same(conclusion, value, question):
        faults.append(Fault("conclusion", f"it concludes {_quoted(conclusion)}, its reasoning comes to {value}"))
    if not faults and not isinstance(captioned, str) and not matches(conclusion, question.truth, question.options):
        faults.append(Fault("caption", _misplaced(captioned, scene.seen)))
    return Check(tuple(faults))


def read_caption(caption: str, question: Question) -> tuple[Seen, ...] | str:
    """The objects that a caption lists, or a sentence saying which line cannot be read.

    Squares must be there just where the question needs them; elsewhere `cell` is empty.
    """
    opening, *lines = caption.split("\n")
    placed = needs_cells(question)
    if opening not in ((GRID_OPENING,) if placed else CAPTION_OPENINGS):
        return f"caption: {_quoted(opening)} is not how a caption of this question begins"
    seen: list[Seen] = []
    for number, line in enumerate(lines, 1):
        found = _LINE.fullmatch(line)
        if found is None or found[1] != str(number):
            return f"caption line {number}: {_quoted(line)} is no object under its number"
        size, colour, shape, cell = found[2], found[3], found[4], found[5] or ""
        if bool(cell) != placed:
            return (
                f"caption line {number}: {_quoted(line)} {'lacks a square' if placed else 'has a square not asked for'}"
            )
        seen.append(Seen(size, colour, shape, cell))
    return tuple(seen)


def _malformed(answer: str) -> str:
    """What keeps the answer from having its four stages."""
    for tag in STAGES:
        opened, closed = answer.count(f"<{tag}>"), answer.count(f"</{tag}>")
        if not opened and not closed:
            return f"the stage {tag} is missing"
        if opened > 1 or closed > 1:
            return f"the stage {tag} is there more than once"
        if opened != closed:
            return f"the stage {tag} is not {'closed' if opened else 'opened'}"
    return "the stages are out of order, or there is text outside of them"


def _misseen(captioned: Sequence[Seen], truly: Sequence[Seen]) -> str:
    """The first line that tells of another object, or of a place too far off; empty when none does."""
    numbers = "" if len(captioned) == len(truly) else f" ({len(captioned)} listed, {len(truly)} in the picture)"
    for number, (told, true) in enumerate(zip_longest(captioned, truly), 1):
        if told is None:
            return f"caption line {number} is missing: {true.name}{numbers}"
        if true is None:
            return f"caption line {number}: {told.name}, the picture has no more objects{numbers}"
        if told.name != true.name:
            return f"caption line {number}: {told.name}, the picture has {true.name}{numbers}"
        if told.cell and max(abs(ord(a) - ord(b)) for a, b in zip(told.cell, true.cell, strict=True)) > 1:
            return f"caption line {number}: {told.name} at {told.cell}, the picture has it at {true.cell}"
    return ""


def _misplaced(captioned: Sequence[Seen], truly: Sequence[Seen]) -> str:
    """The first square that is off by rounding, for when that has decided the answer."""
    for number, (told, true) in enumerate(zip(captioned, truly, strict=True), 1):
        if told.cell and told.cell != true.cell:
            return f"caption line {number}: {told.name} at {told.cell}, the picture has it at {true.cell}; that decides"
    raise ValueError("the question is not about this scene")


def _first_step_apart(text: str, follows: str) -> str:
    """The first step of a reasoning that differs from what follows; steps end in semicolons and periods."""
    for number, (said, right) in enumerate(zip_longest(_STEP_END.split(text), _STEP_END.split(follows)), 1):
        if said == right:
            continue
        if not said:
            return f"the reasoning ends before {_quoted(right)}"
        if not right:
            return f"the reasoning goes on with {_quoted(said)} where it should end"
        return f"reasoning step {number}: {_quoted(said)}, from its own caption follows {_quoted(right)}"
    return f"the reasoning is not punctuated as what follows from its own caption: {_quoted(follows)}"


def _comes_to(reasoning: str, question: Question) -> str | None:
    """The conclusion, a letter where there are options, that a reasoning's last words come to; None without such."""
    found = _COMES_TO.search(reasoning)
    if found is None:
        return None
    total, word, not_here = found.groups()
    return conclude(NOT_HERE if not_here else total or {"yes": "Yes", "no": "No"}.get(word, word), question)


def _same(conclusion: str, value: str, question: Question) -> bool:
    """Whether a conclusion says the value, judged as leniently as the truth is."""
    return matches(conclusion, value, question.options if value in tuple(LETTERS[: len(question.options)]) else ())


def _quoted(text: str) -> str:
    return f'"{shorten(text, 100, placeholder=" …")}"'
