"""What stderr shows while nothing else moves: loading, encoding layer by layer, reading the prompt, hidden stages.

Only on a terminal; drawn by rich in place and wiped before anything else is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_PHASES = {
    "load": "Loading the model",
    "image": "Encoding the picture",
    "prompt": "Reading the question",
    "decode": "Writing",
}

_WITH_BAR, _WITH_TIME = 70, 45  # columns of the terminal


class Phases(Protocol):
    """What shows how far a model is."""

    def update(self, phase: str, done: int, total: int) -> None: ...

    def hide(self) -> None: ...


class ProgressLine:
    """One line that says what is going on.

    Args:
        console: a rich console on stderr, or None for no progress at all.
    """

    def __init__(self, console: Console | None) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._phase = ""
        self.stage: str | None = None
        """The stage that is being written."""

    def update(self, phase: str, done: int, total: int) -> None:
        """Shows a phase (`load`, `image`, `prompt`, `decode`) at `done` of `total`; total 0 is unknown."""
        if self._console is None:
            return
        if self._progress is None:
            self._begin()
        assert self._progress is not None
        counted = phase == "image" and total > 0
        label = _PHASES.get(phase, phase)
        if phase == "decode":
            label = f"{(self.stage or label).capitalize()}, {done} token{'' if done == 1 else 's'}"
        elif counted:
            label += f", layer {min(done + 1, total)}/{total}"
        bounded = total if total > 0 and phase != "decode" else None
        if phase != self._phase:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task, self._phase = self._progress.add_task(label, total=bounded), phase
        assert self._task is not None
        self._progress.update(self._task, description=label, completed=done)

    def hide(self) -> None:
        """Wipes the line; the next update shows it again."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = self._task = None
            self._phase = ""

    def _begin(self) -> None:
        from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        assert self._console is not None
        text = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="crop"))
        columns: list[ProgressColumn] = [
            SpinnerColumn("dots" if self._console.encoding.startswith("utf") else "line"),
            text,
        ]
        # What is said comes first where there is not room for all.
        if self._console.width >= _WITH_BAR:
            columns.append(BarColumn(bar_width=24))
        if self._console.width >= _WITH_TIME:
            columns.append(TimeElapsedColumn())
        self._progress = Progress(
            *columns,
            console=self._console,
            transient=True,
            refresh_per_second=8,
            # stdout may be a terminal with a view of its own, or a file.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._progress.start()
