"""How a model writes its stages: one of four forms, with the wording of the model.

Knows the marks between stages. The wording is data: `models.toml` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from cotcli.errors import UsageError
from cotcli.stages.events import STAGES

FORMATS = ("tags", "sections", "turns", "none")
NUMBER = "{n}"
"""Stands for a number in a heading that is kept."""


@dataclass(frozen=True)
class Section:
    """A heading, at the beginning of a line, and the stage that it opens.

    `kept` headings stay in the text of their stage, such as those of numbered steps: they open it only where it is not
    open yet.
    """

    heading: str
    stage: str
    kept: bool = False


@dataclass(frozen=True)
class Turn:
    """What the model is asked in one turn of a conversation, and the stage that it answers with."""

    stage: str
    prompt: str


@dataclass(frozen=True)
class StageFormat:
    """How a model writes its stages.

    Attributes:
        name: `tags`: <SUMMARY>…</SUMMARY> and so on; `sections`: headings; `turns`: each stage is the answer to a
            question of its own; `none`: the whole answer is the conclusion.
        sections, turns: in the order in which the model writes them; each for the format of its name.

    Raises:
        UsageError: there is no such format, or its wording lacks a part.
    """

    name: str
    sections: tuple[Section, ...] = ()
    turns: tuple[Turn, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in FORMATS:
            raise UsageError(f"stage_format must be one of {', '.join(FORMATS)}, not {self.name}")
        for stage in [section.stage for section in self.sections] + [turn.stage for turn in self.turns]:
            if stage not in STAGES:
                raise UsageError(f"a stage must be one of {', '.join(STAGES)}, not {stage}")
        if self.name in ("sections", "turns"):
            last = (self.sections if self.name == "sections" else self.turns)[-1:]
            if not last:
                raise UsageError(f"stage_format {self.name} needs {self.name} in the model's entry of models.toml")
            if last[0].stage != "conclusion" or (isinstance(last[0], Section) and last[0].kept):
                raise UsageError(f"{self.name} must end with the conclusion")
        if self.name == "turns" and len({turn.stage for turn in self.turns}) < len(self.turns):
            raise UsageError("turns must have each stage once")
        if not all(section.heading == section.heading.strip() != "" for section in self.sections):
            raise UsageError("a heading in sections must not be empty, nor begin or end with a blank")
        for place, section in enumerate(self.sections, 1):
            numbers = section.heading.count(NUMBER)
            if numbers > 1:
                raise UsageError(f"sections, number {place}: a heading can have {NUMBER} in it once")
            if numbers and not section.kept:  # a number that nobody has counted up to would be written for the model
                raise UsageError(f"sections, number {place}: a heading with {NUMBER} in it must have kept = true")

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages that there may be, in the order of `STAGES`."""
        written = {
            "sections": {section.stage for section in self.sections},
            "turns": {turn.stage for turn in self.turns},
            "none": {"conclusion"},
        }.get(self.name, set(STAGES))
        return tuple(stage for stage in STAGES if stage in written)

    @property
    def end_of_conclusion(self) -> str:
        """What a model writes after its conclusion, before it ends its turn."""
        return "</CONCLUSION>" if self.name == "tags" else ""

    @property
    def opening_of_conclusion(self) -> str:
        """What a model writes before its conclusion, after other text."""
        return "\n\n<CONCLUSION>" if self.name == "tags" else f"\n\n{self.sections[-1].heading}"

    def end_of(self, stage: str) -> str:
        """What a model writes to end a stage that is not its last: a closing tag, or the next heading."""
        if self.name == "tags":
            return f"</{stage.upper()}>\n\n"
        places = [place for place, section in enumerate(self.sections) if section.stage == stage]
        following = [section for section in self.sections[places[-1] + 1 :] if not section.kept]
        return f"\n\n{following[0].heading}\n"


TAGS = StageFormat("tags")
NONE = StageFormat("none")
