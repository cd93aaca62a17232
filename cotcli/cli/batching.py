"""A batch from the command line to the exit code: what is asked, progress, records on stdout, and the summary.

The order keeps waits and failures cheap: options, then what is to be asked, then the output, then the model.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cotcli.answer import GenerationParams
from cotcli.batch import (
    Batch,
    BatchOptions,
    Item,
    NameFilter,
    RunConfig,
    Summary,
    from_list,
    from_paths,
    from_questions,
)
from cotcli.cli.answering import LoadOptions, loaded
from cotcli.cli.output import OutputOptions, make_console, make_progress, stderr_can_redraw
from cotcli.cli.run import note
from cotcli.errors import ITEMS_FAILED, CotcliError, Interrupted, UsageError
from cotcli.printable import printable
from cotcli.render.batch_progress import BatchProgress
from cotcli.stages import StageEvent


@dataclass(frozen=True)
class Sources:
    """What the command line says is to be asked.

    Raises:
        UsageError: nothing, or two ways of saying it that exclude each other.
    """

    question: str | None = None
    paths: tuple[str, ...] = ()
    files_from: str | None = None
    null: bool = False
    questions: Path | None = None
    names: NameFilter = field(default_factory=NameFilter)

    def __post_init__(self) -> None:
        help = "To see what it takes: cotcli batch --help"
        if self.questions is not None:
            if self.question is not None:
                raise UsageError("--questions has the questions and the pictures", "Leave QUESTION and PATH out")
            if self.files_from is not None:
                raise UsageError("--questions and --files-from exclude each other", help)
            if self.names != NameFilter():
                raise UsageError("--include and --exclude are about folders; --questions has none", help)
        elif self.question is None:
            raise UsageError("there is nothing to ask: give QUESTION and PATH, or --questions FILE", help)
        elif not self.paths and self.files_from is None:
            raise UsageError("there is no picture to ask about: give PATH, or --files-from FILE", help)
        if self.null and self.files_from is None:
            raise UsageError("--null is about a list", "Name it: --files-from FILE, or - for stdin")

    def items(self, params: Mapping[str, Any]) -> list[Item]:
        """All of it."""
        from cotcli.batch.items import distinct

        if self.questions is not None:
            return from_questions(self.questions, params)
        assert self.question is not None
        items = from_paths(self.question, self.paths, self.names)
        if self.files_from is not None:
            items += from_list(self.question, self.files_from, self.names, null=self.null)
        return distinct(items)

    @property
    def files(self) -> list[Path]:
        """The files that say it."""
        lists = [] if self.files_from in (None, "-") else [Path(str(self.files_from))]
        return lists + ([self.questions] if self.questions else [])


@dataclass(frozen=True)
class BatchJob:
    """What the command line says. `params` holds what it says about generation; the rest are the model's defaults."""

    sources: Sources
    batch: BatchOptions
    load: LoadOptions = field(default_factory=LoadOptions)
    params: Mapping[str, Any] = field(default_factory=dict)
    output: OutputOptions = field(default_factory=OutputOptions)
    dry_run: bool = False


def run_batch(job: BatchJob) -> int:
    """Asks, writes the records, and sums up.

    Returns:
        The exit code: 0 if all that was asked is answered, `ITEMS_FAILED` if some of it failed, now or before.

    Raises:
        CotcliError: it cannot be done, or not to its end.
    """
    GenerationParams(**job.params)  # refuses bad values before anything slow
    _refuse_own_input(job)
    with _own_words():
        items = job.sources.items(job.params)
    with _own_words(), Batch(items, _config(job), job.batch, dry_run=job.dry_run) as batch:
        if job.dry_run:
            return _tell(batch, job)
        run = _Run(job, batch)
        if batch.todo:
            run.ask()
        else:
            batch.finish()
        run.sum_up()
        return 0 if batch.summary.ok else ITEMS_FAILED


# What `cotcli.batch` says of its arguments, in words of its messages that no file's name holds by chance.
_OPTIONS = {
    "overwrite=True": "--overwrite",
    "writes: null=True": "writes: --null",
    "names: include=": "names: --include ",
    "leave it out: exclude=": "leave it out: --exclude ",
    "from stdin: from_list(…, '-')": "from stdin: --files-from -",
    "stdin: no list is piped in": "--files-from -: no list is piped in",
}


@contextmanager
def _own_words() -> Iterator[None]:
    """What `cotcli.batch` calls by the names of its arguments, the command line calls by those of its options."""
    try:
        yield
    except CotcliError as error:
        for theirs, ours in _OPTIONS.items():
            error.message = error.message.replace(theirs, ours)
            error.hint = error.hint and error.hint.replace(theirs, ours)
        raise


def _config(job: BatchJob) -> RunConfig:
    """What is known of the model before it is loaded: all but what its files know best, such as its quantization."""
    model = job.load.resolved()
    spec = replace(model.spec, stage_format=job.load.stage_format or model.spec.stage_format)
    about = {
        "name": model.spec.name,
        "quant": None,
        "sha256": model.sha256,
        "stage_format": spec.stage_format,
        "pair_id": model.record.pair_id if model.record else None,
        "prompt_id": spec.prompt_id,
    }
    return RunConfig(about, replace(model.spec.params, **job.params), job.sources.question)


def _refuse_own_input(job: BatchJob) -> None:
    written = {path for path in (job.batch.output, job.batch.journal) if path is not None and path.exists()}
    for file in job.sources.files:
        for path in written if file.exists() else ():
            if path.samefile(file):
                raise UsageError(f"{path} is what the questions are read from", "Write to another file: -o FILE")


def _tell(batch: Batch, job: BatchJob) -> int:
    from cotcli.render.text import clean

    for item in batch.todo:
        print(" ".join(clean(item.id).split("\n")))
    if job.output.notes:
        later = batch.summary.left - len(batch.todo)
        parts = [f"{len(batch.todo)} to ask", *_before(batch.summary), *([f"{later} left for later"] if later else [])]
        note(", ".join(parts))
    return 0


def _before(summary: Summary) -> list[str]:
    counts = {"done before": summary.answered_before, "failed before": summary.failed_before}
    return [f"{count} {what}" for what, count in counts.items() if count]


class _Run:
    """What is seen of a batch while it runs, and after."""

    def __init__(self, job: BatchJob, batch: Batch) -> None:
        self._job, self._batch = job, batch
        before = batch.summary
        console = None
        # Records on a terminal would tear a bar apart.
        if job.output.notes and stderr_can_redraw() and not (job.batch.output is None and sys.stdout.isatty()):
            console = make_console(sys.stderr, job.output.color)
        done = before.answered_before + before.failed_before
        self._progress = BatchProgress(console, done + len(batch.todo), done, before.failed_before)
        self._positions = {item.id: position for position, item in enumerate(batch.todo)}
        self._newest = -1
        self._stdout = _InOrder(batch.todo) if job.batch.output is None else None

    def ask(self) -> None:
        """Loads the model and asks."""
        job, batch = self._job, self._batch
        self._loading = make_progress(job.output)
        with ExitStack() as stack:
            # The key-value cache has room for all of them from the beginning.
            load = replace(job.load, max_sequences=min(job.load.max_sequences, len(batch.todo)))
            model = stack.enter_context(loaded(load, job.output, self, lambda: False))
            self.hide()
            self._progress.start()
            stack.callback(self._progress.stop)
            try:
                batch.run(model, self._record, self._event)
            except KeyboardInterrupt:
                # A second Ctrl-C ends the process at once.
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                self._progress.stop()
                self.sum_up()
                how = "without --overwrite" if batch.dropped else "again"
                raise Interrupted(
                    "interrupted", f"To go on: the same command {how}" if job.batch.output else None
                ) from None
            finally:
                if self._stdout is not None:
                    self._stdout.finish()

    def sum_up(self) -> None:
        """What has come of it, and what may be done next."""
        if not self._job.output.notes:
            return
        summary, output = self._batch.summary, self._job.batch.output
        parts = [f"{summary.answered} answered"]
        if summary.failed:
            parts.append(f"{summary.failed} failed")
        parts += _before(summary)
        if summary.left:
            parts.append(f"{summary.left} left")
        if summary.seconds:
            parts.append(f"{_duration(summary.seconds)}, {summary.per_minute:.1f} answers/min")
        note(", ".join(parts) + (f": {output}" if output else ""))
        if self._batch.stopped:
            failures = "1 failure" if summary.failed == 1 else f"{summary.failed} failures"
            note(f"stopped after {failures}, as --fail-fast or --max-errors says")
        if (summary.failed or summary.failed_before) and output is not None:
            note("to ask again what failed: --retry-errors")

    def update(self, phase: str, done: int, total: int) -> None:
        """Takes what the model tells, while it loads and while it answers."""
        if phase == "load":
            self._loading.update(phase, done, total)
        elif phase != "decode":
            # Items are begun in their order: this is the first that nothing has been heard of.
            item = self._batch.todo[min(self._newest + 1, len(self._positions) - 1)]
            self._progress.phase(printable(item.id), phase, done, total)

    def hide(self) -> None:
        """Wipes the line that says that the model is being loaded."""
        self._loading.hide()

    def _record(self, item: Item, record: dict[str, Any]) -> None:
        self._newest = max(self._newest, self._positions[item.id])
        self._progress.finished(ok=record["ok"])
        if self._stdout is not None:
            self._stdout.add(item, record)
        if not record["ok"] and self._job.output.notes:
            from cotcli.render.text import clean

            message = record["error"]["message"]
            about = "" if message.startswith(printable(str(item.source))) else f"{printable(item.id)}: "
            text = " ".join(clean(about + message).split("\n"))
            if not self._progress.say(f"cotcli: {text}"):
                note(text)

    def _event(self, item: Item, event: StageEvent) -> None:
        self._newest = max(self._newest, self._positions[item.id])
        self._progress.writing(printable(item.id), event.stage or "")


class _InOrder:
    """Records on stdout in the order of the items: those of answers that end early wait for the ones before."""

    def __init__(self, items: list[Item]) -> None:
        self._ids = iter([item.id for item in items])
        self._next = next(self._ids, None)
        self._waiting: dict[str, dict[str, Any]] = {}

    def add(self, item: Item, record: dict[str, Any]) -> None:
        self._waiting[item.id] = record
        while self._next in self._waiting:
            self._write(self._waiting.pop(self._next))
            self._next = next(self._ids, None)

    def finish(self) -> None:
        """Writes what still waits for others that will not come."""
        for id in [self._next, *self._ids]:
            if id in self._waiting:
                self._write(self._waiting.pop(id))

    def _write(self, record: dict[str, Any]) -> None:
        from cotcli.render.jsonl import write_json

        write_json(sys.stdout, record)


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
