"""Answers as plain text for pipes: no escape codes, no decoration beyond what tells two texts apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from cotcli.answer import Answer
from cotcli.render import RAW, shown_stages
from cotcli.render.text import clean
from cotcli.stages import StageEvent


class PlainOutput:
    """Writes each answer when it is complete: until then a conclusion may still be replaced by a later one.

    Args:
        file: where to.
        show: the stages to write, or `RAW` alone.
        headers: put `==> picture <==` before each answer, as `head` does for several files.
    """

    live = False

    def __init__(self, file: TextIO, show: Sequence[str], *, headers: bool = False) -> None:
        self._file = file
        self._show = show
        self._headers = headers
        self._count = 0

    def start(self, image: str, question: str) -> None:
        if self._headers:
            gap = "\n" if self._count else ""
            self._write(f"{gap}==> {clean(image).replace(chr(10), ' ')} <==\n")
        self._count += 1

    def event(self, event: StageEvent) -> None:
        pass

    def answer(self, answer: Answer) -> None:
        text = plain_text(answer, self._show)
        if text:
            self._write(text + "\n")

    def close(self) -> None:
        pass

    def _write(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()


def plain_text(answer: Answer, show: Sequence[str]) -> str:
    """The text of one stage as it is; of several, each under its name. Control characters are left out.

    A conclusion that was cut is not given: a script would take the 1 of a 14 for the answer.
    """
    if RAW in show:
        return clean(answer.raw)
    stages = shown_stages(answer, show)
    if not answer.ok:
        stages.pop("conclusion", None)
    if len(show) == 1:
        return clean("".join(stages.values()))
    return "\n\n".join(f"{stage.upper()}\n{clean(text)}" for stage, text in stages.items())
