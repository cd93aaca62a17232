"""Step 5a: text chunks -> stage events, in whichever form a model writes its stages.

Knows how staged answers are written down. Knows nothing about tokens, models, images or terminals. What opens a stage
is plain text to the model, and its tokens merge with what follows, so it is recognised in the text, however that is
split into chunks.

events    the stages, and what happens to them
formats   how a model writes them: tags, sections, turns, none
parser    what all parsers share; the parser of formats without marks in the text
tags      the parser of <SUMMARY>…</SUMMARY>
sections  the parser of headings
"""

from __future__ import annotations

from cotcli.stages.events import STAGES, StageDelta, StageEnd, StageEvent, StageStart
from cotcli.stages.formats import FORMATS, NONE, TAGS, Section, StageFormat, Turn
from cotcli.stages.parser import StageParser
from cotcli.stages.sections import SectionParser
from cotcli.stages.tags import TagParser

__all__ = [
    "FORMATS",
    "NONE",
    "STAGES",
    "TAGS",
    "Section",
    "StageDelta",
    "StageEnd",
    "StageEvent",
    "StageFormat",
    "StageParser",
    "StageStart",
    "Turn",
    "parser_of",
]


def parser_of(form: StageFormat = TAGS) -> StageParser:
    """A parser for one answer in this format."""
    if form.name == "tags":
        return TagParser()
    if form.name == "sections":
        return SectionParser(form.sections)
    return StageParser("conclusion" if form.name == "none" else None)
