"""What stderr shows of a batch while it runs: a bar with counts, rate and time left, and what is being worked on.

Only on a terminal; drawn by rich in place and wiped at the end. Knows counts and names, nothing of records.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

_BAR = 16
_WITH_BAR = 70  # columns of the terminal


class BatchProgress:
    """Two lines: the batch, and its newest picture.

    Args:
        console: a rich console on stderr, or None for no progress at all.
        total: of all items that are done in the end, before or not.
        done: before.
        failed: of these.
    """

    def __init__(self, console: Console | None, total: int, done: int, failed: int) -> None:
        self._console = console
        self._total, self._done, self._failed = total, done, failed
        self._finished = 0
        self._begin = time.monotonic()
        self._name = self._doing = ""
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self) -> None:
        """Shows it; time counts from here."""
        self._begin = time.monotonic()
        if self._console is None:
            return
        from rich.progress import BarColumn, Progress, ProgressColumn, Task
        from rich.table import Column
        from rich.text import Text

        batch = self

        class Counts(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(batch._counts())

        class Lines(Progress):
            def get_renderables(self) -> list[RenderableType]:
                line = Text(batch._line(), "dim", no_wrap=True, overflow="crop")
                return [self.make_tasks_table(self.tasks), line]

        counts = Counts(Column(no_wrap=True, overflow="crop"))
        self._progress = Lines(
            # What is said comes first where there is not room for all.
            *([BarColumn(bar_width=_BAR)] if self._console.width >= _WITH_BAR else []),
            counts,
            console=self._console,
            transient=True,
            refresh_per_second=4,
            # stdout may be a terminal too, or a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._progress.add_task("", total=self._total, completed=self._done)
        self._progress.start()

    def writing(self, name: str, stage: str) -> None:
        """The picture whose answer is being written, and at which stage."""
        self._name, self._doing = name, stage

    def phase(self, name: str, phase: str, done: int, total: int) -> None:
        """How far a picture is before its answer begins: encoding by layers, then the question."""
        self._name = name
        if phase == "image" and total:
            self._doing = f"encoding, layer {min(done + 1, total)}/{total}"
        elif phase == "prompt":
            self._doing = "reading the question"

    def finished(self, *, ok: bool) -> None:
        """One more has ended."""
        self._done += 1
        self._finished += 1
        self._failed += not ok
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=self._done)

    def say(self, text: str) -> bool:
        """A line that stays, above; False if there is nothing to be above of."""
        if self._progress is None:
            return False
        from rich.text import Text

        self._progress.console.print(Text(text))
        return True

    def stop(self) -> None:
        """Wipes it."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def _counts(self) -> str:
        parts = [f"{self._done}/{self._total}"]
        if self._failed:
            parts.append(f"{self._failed} failed")
        if self._finished:
            seconds = (time.monotonic() - self._begin) / self._finished
            parts += [f"{60 / seconds:.1f}/min", f"{_clock(seconds * (self._total - self._done))} left"]
        return "  ".join(parts)

    def _line(self) -> str:
        return f"{self._name}: {self._doing}" if self._doing else self._name


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
