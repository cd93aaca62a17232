"""What all stage parsers share: the text so far, the stage that is open, and which occurrence of a stage counts."""

from __future__ import annotations

from cotcli.stages.events import STAGES, StageDelta, StageEnd, StageEvent, StageStart


class StageParser:
    """Turns chunks of text into stage events as early as the text allows. This one knows no marks in the text: the
    writer begins the stages, or all text is of one.

    Events do not depend on how the text is split, but for the lengths of the deltas. Every character that is not part
    of a mark appears in exactly one delta, in order, and `raw` has them all.

    Args:
        implicit: the stage of text that comes while none is open; None leaves it outside.
    """

    ends_closed = True
    """Whether a stage that is open when the text ends has its end there."""

    def __init__(self, implicit: str | None = None) -> None:
        self._implicit = implicit
        self._raw: list[str] = []
        self._pending = ""
        self._current: list[str] = []
        self._texts: dict[str, str] = {}
        self._complete: set[str] = set()
        self.stage: str | None = None

    @property
    def raw(self) -> str:
        """All text so far, marks included."""
        return "".join(self._raw)

    @property
    def stages(self) -> dict[str, str]:
        """Stage -> its text so far, trimmed, in the order of `STAGES`; stages that never began are absent.

        Of a stage that was written more than once this is the last that was closed, or else the last; empty ones count
        only where there is nothing else.
        """
        texts = dict(self._texts)
        if self.stage is not None and self._counts(self.stage, closed=False):
            texts[self.stage] = "".join(self._current).strip()
        return {stage: texts[stage] for stage in STAGES if stage in texts}

    @property
    def answer(self) -> str:
        """The conclusion, trimmed; empty if there is none."""
        return self.stages.get("conclusion", "")

    def feed(self, text: str) -> list[StageEvent]:
        """Takes the next chunk and returns what it decides."""
        self._raw.append(text)
        return self._scan(self._pending + text, final=False)

    def begin(self, stage: str) -> list[StageEvent]:
        """Begins a stage that no mark in the text begins, after a blank line if there is text before it."""
        events: list[StageEvent] = []
        if any(self._raw):
            self._raw.append("\n\n")
            self._delta("\n\n", events)
        events.append(self._start(stage))
        return events

    def end(self) -> list[StageEvent]:
        """Ends the open stage, which no mark in the text ends."""
        return [] if self.stage is None else [self._end(closed=True)]

    def close(self) -> list[StageEvent]:
        """Ends the text: gives out what was held back and ends the open stage."""
        events = self._scan(self._pending, final=True)
        if self.stage is not None:
            events.append(self._end(closed=self.ends_closed))
        return events

    def _scan(self, text: str, *, final: bool) -> list[StageEvent]:
        """Events of `text`, which goes on from all that was scanned before; keeps in `_pending` what may be a mark."""
        events: list[StageEvent] = []
        if text and self.stage is None and self._implicit is not None:
            events.append(self._start(self._implicit))
        self._delta(text, events)
        return events

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
