"""Step 6: stage events and answers -> what a person or a program reads.

Knows the forms of output. Knows nothing about options, exit codes or how answers come about.

    terminal  the staged view: labelled stages as they stream, the conclusion in a box, one quiet line
    plain     text for pipes: the conclusion alone, or the stages asked for
    jsonl     one record a line, or a stream of events that ends in one
    record    the one type of record, and `schema`, its JSON Schema
    progress  what stderr shows while nothing else moves
    picture   a small picture on a terminal
    text      control characters and wrapping
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cotcli.answer import Answer
from cotcli.stages import STAGES, StageEvent

RAW = "raw"
"""Shown in place of stages: all that the model wrote, tags included."""


class Output(Protocol):
    """One form of output. For each picture: `start`, then events, then `answer`, or `close` if there is none."""

    @property
    def live(self) -> bool:
        """Whether text is being written that a progress line would tear apart."""

    def start(self, image: str, question: str) -> None:
        """The next picture, as the user named it."""

    def event(self, event: StageEvent) -> None: ...

    def answer(self, answer: Answer) -> None: ...

    def close(self) -> None:
        """Ends what stands open."""


def shown_stages(answer: Answer, show: Sequence[str]) -> dict[str, str]:
    """The stages of an answer that are to be shown, in the order of an answer."""
    return {stage: answer.stages[stage] for stage in STAGES if stage in show and stage in answer.stages}
