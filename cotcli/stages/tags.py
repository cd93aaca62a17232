"""The parser of LLaVA-CoT's tags: `<SUMMARY>…</SUMMARY>`, `<CAPTION>…</CAPTION>` and so on."""

from __future__ import annotations

import re

from cotcli.stages.events import STAGES, StageEvent
from cotcli.stages.parser import StageParser

# One blank is allowed at each joint of a tag: with more, what must be held back would have no limit.
_BLANK = "[ \\t\\r\\n]?"
_PARTIAL = re.compile(rf"<{_BLANK}(?P<slash>/?){_BLANK}(?P<word>[A-Za-z]*)(?P<blank>{_BLANK})")
_TAG = re.compile(rf"<{_BLANK}(?P<slash>/?){_BLANK}(?P<word>{'|'.join(STAGES)}){_BLANK}>", re.IGNORECASE | re.ASCII)


class TagParser(StageParser):
    """Reads the tags wherever they stand, in any state of repair.

    Only text that could still become a tag is held back: at most a dozen characters.

    Broken structure is read thus:
    - an opening tag inside a stage ends that stage (`closed=False`) and opens its own;
    - a closing tag that does not match the open stage, or that stands outside any, is dropped;
    - a tag in another case than the model was trained to write, such as HTML's `<caption>`, counts only where it fits:
      opening outside any stage, or closing the open stage. Elsewhere it is text;
    - a stage that is still open when the text ends is ended by `close` with `closed=False`.
    """

    ends_closed = False

    def _scan(self, text: str, *, final: bool) -> list[StageEvent]:
        events: list[StageEvent] = []
        done = 0
        position = text.find("<")
        while position >= 0:
            tag = _TAG.match(text, position)
            if tag and self._is_tag(tag["slash"] == "/", tag["word"]):
                self._delta(text[done:position], events)
                self._read_tag(tag["slash"] == "/", tag["word"].lower(), events)
                done = position = tag.end()
            elif not final and self._may_become_tag(text, position):
                break
            else:
                position += 1
            position = text.find("<", position)
        else:
            position = len(text)
        self._delta(text[done:position], events)
        self._pending = text[position:]
        return events

    def _read_tag(self, closing: bool, stage: str, events: list[StageEvent]) -> None:
        if not closing:
            if self.stage is not None:
                events.append(self._end(closed=False))
            events.append(self._start(stage))
        elif stage == self.stage:
            events.append(self._end(closed=True))

    def _is_tag(self, closing: bool, word: str) -> bool:
        if word == word.upper():
            return True
        return word.lower() == self.stage if closing else self.stage is None

    def _may_become_tag(self, text: str, position: int) -> bool:
        """Whether some continuation of text[position:] starts with a tag."""
        partial = _PARTIAL.fullmatch(text, position)
        if partial is None:
            return False
        word, closing = partial["word"], partial["slash"] == "/"
        if word and not self._is_tag(closing, word) and not (closing and (self.stage or "").startswith(word.lower())):
            return False
        if word and partial["blank"]:
            return word.lower() in STAGES
        return any(stage.startswith(word.lower()) for stage in STAGES)
