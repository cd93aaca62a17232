"""Answers as JSON: one record a line, or the events of each answer and its record last."""

from __future__ import annotations

import json
from typing import Any, TextIO

from cotcli.answer import Answer
from cotcli.errors import CotcliError
from cotcli.render.record import answer_record, error_record, event_record, result_event
from cotcli.stages import StageEvent


class JsonOutput:
    """Writes records; with `stream`, events as they come too. Every line is flushed whole."""

    def __init__(self, file: TextIO, *, stream: bool = False) -> None:
        self._file = file
        self._stream = stream
        self._id: str | None = None

    @property
    def live(self) -> bool:
        return self._stream and self._file.isatty()

    def start(self, image: str, question: str) -> None:
        self._id = image

    def event(self, event: StageEvent) -> None:
        if self._stream:
            write_json(self._file, event_record(event, self._id))

    def answer(self, answer: Answer) -> None:
        self._record(answer_record(answer, self._id))

    def close(self) -> None:
        pass

    def error(self, error: CotcliError, image: str | None, question: str | None) -> None:
        """There is no answer; `image` is None where the error is not about one of them."""
        self._record(error_record(error, image, question))

    def _record(self, record: dict[str, Any]) -> None:
        write_json(self._file, result_event(record) if self._stream else record)


def write_json(file: TextIO, value: Any) -> None:
    """One line, flushed. NaN and infinities, which JSON lacks, are refused."""
    file.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")
    file.flush()
