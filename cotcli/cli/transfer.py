"""What stderr shows of a download and a conversion: two bars on a terminal, a few lines in a pipe."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

from cotcli.cli.output import OutputOptions, make_console, stderr_can_redraw
from cotcli.cli.run import note

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from convert import Survey


class Transfer:
    """Takes the callbacks of `convert.convert` and `convert.install_ready`; draws nothing with `--quiet`."""

    def __init__(self, options: OutputOptions) -> None:
        self._quiet = options.quiet
        self._bars = make_bars(options)
        self._here: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._said: set[str] = set()

    def __enter__(self) -> Transfer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop(for_good=True)

    def say(self, text: str) -> None:
        """A line above the bars."""
        if self._bars is not None:
            self._bars.stop()
        if not self._quiet:
            note(text)

    def on_plan(self, survey: Survey) -> None:
        """The files that count are known, and what of them is here."""
        sizes, missing = survey.files, survey.to_fetch
        self._sizes = dict(sizes)
        self._here = {name: size - missing.get(name, 0) for name, size in sizes.items()}
        self._said = {name for name in sizes if not missing.get(name)}

    def on_bytes(self, name: str, done: int, total: int) -> None:
        """A file comes in, perhaps from another thread."""
        if name not in self._sizes or self._quiet:
            return
        self._here[name] = done
        number = f"{list(self._sizes).index(name) + 1} of {len(self._sizes)}"
        if self._bars is not None:
            self._bars.show("download", f"File {number}", sum(self._here.values()), sum(self._sizes.values()))
        elif done == total and name not in self._said:
            self._said.add(name)
            note(f"file {number} is here: {name}")

    def on_tensor(self, tensor: str, done: int, total: int) -> None:
        """A piece of the result has been written."""
        if self._bars is not None:
            self._bars.show("convert", f"Converting {tensor}", done, total)


def make_bars(options: OutputOptions) -> Bars | None:
    """Bars for stderr, if that is a terminal that can redraw a line."""
    return Bars(options) if not options.quiet and stderr_can_redraw() else None


class Bars:
    """Bytes and time left, a bar for each task, drawn in place and wiped at the end."""

    def __init__(self, options: OutputOptions) -> None:
        self._options = options
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()  # a download reports from its own thread
        self._closed = False

    def show(self, task: str, label: str, done: int, total: int) -> None:
        with self._lock:
            if self._closed:
                return
            if self._progress is None:
                self._progress = self._begin()
            if task not in self._tasks:
                self._tasks[task] = self._progress.add_task(label, total=total, completed=done)
            self._progress.update(self._tasks[task], description=label, completed=done, total=total)

    def stop(self, for_good: bool = False) -> None:
        with self._lock:
            self._closed = for_good
            if self._progress is not None:
                self._progress.stop()
                self._progress, self._tasks = None, {}

    def _begin(self) -> Progress:
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=make_console(sys.stderr, self._options.color),
            transient=True,
        )
        progress.start()
        return progress
