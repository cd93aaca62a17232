"""Step 5a: text chunks -> stage events.

Knows how a staged answer is written down: LLaVA-CoT's `<SUMMARY>…</SUMMARY>` tags, or no stages at all. Knows nothing
about tokens, models, images or terminals. The tags are plain text to the model and their tokens merge with what
follows, so they are recognised in the text, however it is split into chunks.
"""

from __future__ import annotations

import re
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
    """A stage is over. `closed` is False if it was cut short or replaced by the next opening tag."""

    stage: str
    closed: bool


StageEvent = StageStart | StageDelta | StageEnd


@dataclass(frozen=True)
class StageFormat:
    """How a model writes its stages.

    Attributes:
        name: as in the `stage_format` of `models.toml`.
        stages: the stages in the order in which they are asked for.
        implicit: the stage that all text belongs to where the format has no tags.
    """

    name: str
    stages: tuple[str, ...]
    implicit: str | None = None


TAGS = StageFormat("tags", STAGES)
NONE = StageFormat("none", ("conclusion",), implicit="conclusion")
FORMATS = {form.name: form for form in (TAGS, NONE)}

# One blank is allowed at each joint of a tag: with more, what must be held back would have no limit.
_BLANK = "[ \\t\\r\\n]?"
_PARTIAL = re.compile(rf"<{_BLANK}(?P<slash>/?){_BLANK}(?P<word>[A-Za-z]*)(?P<blank>{_BLANK})")


class StageParser:
    """Turns chunks of text into stage events as early as the text allows.

    Only text that could still become a tag is held back: at most a dozen characters. The events do not depend on how
    the text is split, but for the lengths of the deltas. Every character that is not part of a tag appears in exactly
    one delta, in order, and `raw` has them all.

    Broken structure is read thus:
    - an opening tag inside a stage ends that stage (`closed=False`) and opens its own;
    - a closing tag that does not match the open stage, or that stands outside any, is dropped;
    - a tag in another case than the model was trained to write, such as HTML's `<caption>`, counts only where it fits:
      opening outside any stage, or closing the open stage. Elsewhere it is text;
    - a stage that is still open when the text ends is ended by `close` with `closed=False`.
    """

    def __init__(self, form: StageFormat = TAGS) -> None:
        self._form = form
        names = "|".join(form.stages)
        self._tag = re.compile(rf"<{_BLANK}(?P<slash>/?){_BLANK}(?P<word>{names}){_BLANK}>", re.IGNORECASE | re.ASCII)
        self._raw: list[str] = []
        self._pending = ""
        self._current: list[str] = []
        self._texts: dict[str, str] = {}
        self._complete: set[str] = set()
        self.stage: str | None = None

    @property
    def raw(self) -> str:
        """All text fed so far, tags included."""
        return "".join(self._raw)

    @property
    def stages(self) -> dict[str, str]:
        """Stage -> its text so far, trimmed, in the format's order; stages that never began are absent.

        Of a stage that was written more than once this is the last that was closed, or else the last; empty ones count
        only where there is nothing else.
        """
        texts = dict(self._texts)
        if self.stage is not None and self._counts(self.stage, closed=False):
            texts[self.stage] = "".join(self._current).strip()
        return {stage: texts[stage] for stage in self._form.stages if stage in texts}

    @property
    def answer(self) -> str:
        """The conclusion, trimmed; empty if there is none."""
        return self.stages.get("conclusion", "")

    def feed(self, text: str) -> list[StageEvent]:
        """Takes the next chunk and returns what it decides."""
        self._raw.append(text)
        if self._form.implicit is not None:
            events: list[StageEvent] = []
            if text and self.stage is None:
                events.append(self._start(self._form.implicit))
            self._delta(text, events)
            return events
        return self._scan(self._pending + text, final=False)

    def close(self) -> list[StageEvent]:
        """Ends the text: gives out what was held back and ends the open stage."""
        events = self._scan(self._pending, final=True)
        if self.stage is not None:
            events.append(self._end(closed=self._form.implicit is not None))
        return events

    def _scan(self, text: str, *, final: bool) -> list[StageEvent]:
        events: list[StageEvent] = []
        done = 0
        position = text.find("<")
        while position >= 0:
            tag = self._tag.match(text, position)
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
            return word.lower() in self._form.stages
        return any(stage.startswith(word.lower()) for stage in self._form.stages)

    def _start(self, stage: str) -> StageStart:
        self.stage = stage
        self._current = []
        return StageStart(stage)

    def _delta(self, text: str, events: list[StageEvent]) -> None:
        if text:
            if self.stage is not None:
                self._current.append(text)
            events.append(StageDelta(self.stage, text))

    def _end(self, *, closed: bool) -> StageEnd:
        stage = self.stage
        assert stage is not None
        if self._counts(stage, closed=closed):
            self._texts[stage] = "".join(self._current).strip()
            if closed:
                self._complete.add(stage)
        self.stage = None
        return StageEnd(stage, closed)

    def _counts(self, stage: str, *, closed: bool) -> bool:
        """Whether the text of the current occurrence is the one to keep."""
        if not self._texts.get(stage):
            return True
        return any(text.strip() for text in self._current) and (closed or stage not in self._complete)
