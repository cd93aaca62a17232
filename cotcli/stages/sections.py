"""The parser of stages under headings, such as Mulberry's `### Image Description:`."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cotcli.stages.events import StageEvent
from cotcli.stages.formats import NUMBER, Section
from cotcli.stages.parser import StageParser

_DIGITS = re.compile("[0-9]{1,3}")


class SectionParser(StageParser):
    """Reads headings where a line begins with one, in any case; what follows on the line belongs to the stage.

    A heading ends the stage before it, so that none is ever left unclosed. Only text that could still become a heading
    is held back: at most one heading.

    Broken structure is read thus:
    - a heading of the stage that is open is text of it; but of conclusions the last counts;
    - text before the first heading is outside any stage.
    """

    def __init__(self, sections: Sequence[Section]) -> None:
        super().__init__()
        self._sections = sorted(sections, key=lambda section: -len(section.heading))
        self._patterns = [(section, _pattern(section.heading)) for section in self._sections]
        self._line_begins = True

    def _scan(self, text: str, *, final: bool) -> list[StageEvent]:
        events: list[StageEvent] = []
        done = 0
        position: int | None = 0 if self._line_begins else _next_line(text, 0)
        while position is not None:
            if not final and any(_may_become(text[position:], section.heading) for section in self._sections):
                break
            section, end = self._heading(text, position)
            if section is not None and self._opens(section):
                self._delta(text[done:position], events)
                if self.stage is not None:
                    events.append(self._end(closed=True))
                events.append(self._start(section.stage))
                done = position if section.kept else end
            position = _next_line(text, end)
        if position is None:
            position = len(text)
        if position > 0:
            self._line_begins = text[position - 1] == "\n"
        self._delta(text[done:position], events)
        self._pending = text[position:]
        return events

    def _heading(self, text: str, position: int) -> tuple[Section | None, int]:
        """The heading that begins there, and its end."""
        for section, pattern in self._patterns:
            match = pattern.match(text, position)
            if match:
                return section, match.end()
        return None, position

    def _opens(self, section: Section) -> bool:
        return section.stage != self.stage or (section.stage == "conclusion" and not section.kept)


def _next_line(text: str, position: int) -> int | None:
    """Where the next line begins, be it with the next chunk; None if this one does not end here."""
    newline = text.find("\n", position)
    return newline + 1 if newline >= 0 else None


def _pattern(heading: str) -> re.Pattern[str]:
    return re.compile(re.escape(heading).replace(re.escape(NUMBER), _DIGITS.pattern), re.IGNORECASE | re.ASCII)


def _may_become(text: str, heading: str) -> bool:
    """Whether `text` is the beginning of such a heading, and not all of it."""
    head, number, tail = heading.partition(NUMBER)
    head, tail, text = head.lower(), tail.lower(), text.lower()
    if len(text) <= len(head):
        return head.startswith(text) and (len(text) < len(head) or bool(number))
    digits = _DIGITS.match(text, len(head)) if number and text.startswith(head) else None
    if digits is None:
        return False
    rest = text[digits.end() :]
    return len(rest) < len(tail) and tail.startswith(rest)
