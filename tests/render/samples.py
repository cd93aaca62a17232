"""Answers to render: a whole one, and what is left of broken ones."""

from __future__ import annotations

from typing import Any

from cotcli.answer import Answer, GenerationParams, ImageInfo, ModelInfo, Timing, Usage
from cotcli.stages import StageEvent, parser_of

RAW = (
    "<SUMMARY>\nI will remove the red objects and count the rest.\n</SUMMARY>\n\n"
    "<CAPTION>From left to right:\n1. small red circle\n2. big blue square</CAPTION>\n\n"
    "<REASONING>Small red circle out, big blue square stays (1). That leaves 1.</REASONING>\n\n"
    "<CONCLUSION>1</CONCLUSION>"
)


def make_answer(raw: str = RAW, **changes: Any) -> Answer:
    """The answer that a model writing `raw` gives."""
    parser = parser_of()
    parser.feed(raw)
    parser.close()
    fields: dict[str, Any] = {
        "question": "Subtract all red objects. How many objects are left?",
        "image": ImageInfo("scene.png", "0123456789abcdef" * 4, 640, 480),
        "stages": parser.stages,
        "answer": parser.answer,
        "raw": raw,
        "finish_reason": "stop",
        "model": ModelInfo("demo", "Q8_0", "fedcba9876543210" * 4, "CPU", "tags", "00112233" * 8, "0123", "4567"),
        "params": GenerationParams(seed=7, max_tokens=300, stage_max_tokens=(("reasoning", 100),)),
        "usage": Usage(21, 64, 2),
        "timing": Timing(125.0, 2250.4, 31.25, 1600.0),
        **changes,
    }
    return Answer(**fields)


def events_of(raw: str, size: int) -> list[StageEvent]:
    """The stage events of a text that comes in chunks of `size` characters."""
    parser = parser_of()
    chunks = [raw[begin : begin + size] for begin in range(0, len(raw), size)]
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.close()
