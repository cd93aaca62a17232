"""The stages of an answer, and what happens to them as it is written."""

from __future__ import annotations

from dataclasses import dataclass

STAGES = ("summary", "caption", "reasoning", "conclusion")


@dataclass(frozen=True)
class StageStart:
    """A stage has been opened."""

    stage: str


@dataclass(frozen=True)
class StageDelta:
    """More text of a stage; `stage` is None for text outside any stage. Never empty."""

    stage: str | None
    text: str


@dataclass(frozen=True)
class StageEnd:
    """A stage is over. `closed` is False if it has a mark of its end, and that was not written."""

    stage: str
    closed: bool


StageEvent = StageStart | StageDelta | StageEnd
