"""Step 4: the four stages -> what the model is taught to say, with the weight of every part of it.

Knows the arms of the comparison (staged, untagged, direct) and which words are seen or decided rather than mere
wording. Knows nothing about tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cotcli.shapes.answers import STAGES, join_stages
from cotcli.shapes.scenes import COLOURS, SHAPES, SIZES

FORMS = ("staged", "untagged", "direct")
SEEN_WEIGHT, DECIDED_WEIGHT = 2.0, 3.0
_SEEN = re.compile(rf"\b(?:{'|'.join((*SIZES, *COLOURS, *SHAPES, '[A-H][1-8]'))})\b")
_STATE = re.compile(r"\([^()]+\)|number [0-9]+, the \w+ \w+ \w+|is \w+\.$")  # what has come out so far
_DECIDED = re.compile(r"\b(?:yes|no|more|fewer|before|after|same|[0-9]+|[A-H][1-8]?)\b")


@dataclass(frozen=True)
class Told:
    """`spans` are (first character, one past the last, weight); characters outside them weigh 1."""

    text: str
    spans: tuple[tuple[int, int, float], ...]


def tell(stages: Sequence[str], form: str = "staged", blind: bool = False) -> Told:
    """The answer in one of the `FORMS`: with LLaVA-CoT's tags, as paragraphs without tags, or the conclusion alone.

    `blind`: what only a picture can tell (the objects of the caption, and how many they are) weighs nothing.
    """
    _, caption, reasoning, conclusion = stages
    if form == "direct":
        return Told(conclusion, ((0, len(conclusion), DECIDED_WEIGHT),))
    text = join_stages(stages) if form == "staged" else "\n\n".join(stages)
    at = _starts(stages, form)
    spans: list[tuple[int, int, float]] = []
    if blind:
        spans.append((at[1] + caption.index("\n") + 1, at[1] + len(caption) + 2, 0.0))
    else:
        spans += [(at[1] + m.start(), at[1] + m.end(), SEEN_WEIGHT) for m in _SEEN.finditer(caption)]
    spans += [(at[2] + m.start(), at[2] + m.end(), DECIDED_WEIGHT) for m in _DECIDED.finditer(reasoning)]
    spans += [(at[2] + m.start(), at[2] + m.end(), DECIDED_WEIGHT) for m in _STATE.finditer(reasoning)]
    spans.append((at[3], at[3] + len(conclusion), DECIDED_WEIGHT))
    return Told(text, tuple(spans))


def _starts(stages: Sequence[str], form: str) -> list[int]:
    """Where each stage's words begin in the text."""
    starts, end = [], 0
    for tag, stage in zip(STAGES, stages, strict=True):
        opened, closed = (f"<{tag}>", f"</{tag}>") if form == "staged" else ("", "")
        starts.append(end + len(opened))
        end = starts[-1] + len(stage + closed + "\n\n")
    return starts
