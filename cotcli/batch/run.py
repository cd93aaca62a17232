"""A batch, top to bottom: items that have no record yet -> answers -> records in a file.

Knows which items are done, in which order records come to stand, and when to stop. Knows nothing of options or of how
progress is shown.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

from cotcli.answer import Answer
from cotcli.batch.agreement import Agreement
from cotcli.batch.items import Item, with_their_files
from cotcli.batch.journal import Entry, Journal, Record, beside, cannot_write, read_entries, refuse_place
from cotcli.batch.run_config import RunConfig
from cotcli.batch.table import SUFFIXES, check_suffix, write_table
from cotcli.errors import CotcliError, UsageError
from cotcli.files import rename, whole_file
from cotcli.lookahead import Request
from cotcli.native.interrupt import deferred
from cotcli.printable import printable
from cotcli.render.record import answer_record, error_record
from cotcli.stages import StageEvent

if TYPE_CHECKING:
    from cotcli.generate import Reasoner

Outcome: TypeAlias = StageEvent | Answer | CotcliError
"""What a model's `stream_all` gives of a request."""

_JSON_LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class BatchOptions:
    """What to do with the items.

    Attributes:
        output: where records go; None keeps none. A `.csv` or `.parquet` file is made of the records at the end, which
            until then, and for a later run, are in a `.jsonl` file beside it.
        overwrite: drop what is there.
        retry_errors: take failed records out of the file and ask them again.
        limit: ask so many items at most.
        max_errors: stop after so many failures.
        parallel: answers at once, if there is so much to ask.

    Raises:
        UsageError: a value is out of range, or there is no file for what needs one.
    """

    output: Path | None = None
    overwrite: bool = False
    retry_errors: bool = False
    limit: int | None = None
    max_errors: int | None = None
    parallel: int = 1

    def __post_init__(self) -> None:
        for name in ("limit", "max_errors", "parallel"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be 1 or more, not {value}")
        if self.output is None:
            if self.overwrite or self.retry_errors:
                which = "overwrite" if self.overwrite else "retry_errors"
                raise UsageError(f"{which} is about a file of records", "Name it: output")
        elif self.output.suffix.lower() not in (*_JSON_LINES, *SUFFIXES):
            known = ", ".join((*_JSON_LINES, *SUFFIXES))
            raise UsageError(f"{printable(str(self.output))}: in what form is not known", f"A file ends in {known}")

    @property
    def is_table(self) -> bool:
        """Whether the output is made at the end, of records elsewhere."""
        return self.output is not None and self.output.suffix.lower() in SUFFIXES

    @property
    def journal(self) -> Path | None:
        """The file of records."""
        if self.output is None or not self.is_table:
            return self.output
        return self.output.with_name(self.output.name + ".jsonl")


@dataclass(frozen=True)
class Summary:
    """How many items were answered and failed in this run; had been answered and had failed before; and are left.

    `seconds` is from the first question to the last answer.
    """

    answered: int = 0
    failed: int = 0
    answered_before: int = 0
    failed_before: int = 0
    left: int = 0
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether none of the items that have been asked is without an answer."""
        return not self.failed and not self.failed_before

    @property
    def per_minute(self) -> float:
        """Items of this run a minute."""
        return 60.0 * (self.answered + self.failed) / self.seconds if self.seconds else 0.0


class Batch:
    """Items on their way to records. Owns the output from the beginning to `close`.

    Args:
        items: with ids all their own, in the order in which records are to be.
        config: what all are asked with.

    Attributes:
        todo: the items that `run` asks, in their order.
        summary: so far.

    Raises:
        UsageError: the file has other records, or was made with other settings.
        ResourceError: it cannot be written, or another process is writing it.
    """

    def __init__(
        self,
        items: Sequence[Item],
        config: RunConfig,
        options: BatchOptions = BatchOptions(),
        *,
        dry_run: bool = False,
    ) -> None:
        self._items, self._config, self._options = items, config, options
        # Rows of a file of questions may be asked some at a time: the file of records is about all of them.
        whole = with_their_files(items)
        self._order = [item.id for item in whole]
        self._begun = False
        self._shown = printable(str(options.journal))
        self._agreement = Agreement(self._shown, whole, config, retry_errors=options.retry_errors)
        self._journal: Journal | None = None
        entries: dict[str, Entry] = {}
        if options.journal is not None:
            self._check_table()
            if not dry_run:
                self._journal = Journal(options.journal, self._agreement.check, fresh=options.overwrite)
                entries = self._journal.entries
                try:
                    self._agreement.check_rows()
                except BaseException:
                    self._journal.close()
                    raise
            else:
                refuse_place(options.journal)
                if options.journal.exists() and not options.overwrite:
                    entries = read_entries(options.journal, self._agreement.check)[0]
                    self._agreement.check_rows()
        self.todo, self.summary = self._plan(entries)

    def _plan(self, entries: dict[str, Entry]) -> tuple[list[Item], Summary]:
        done = {id for id, entry in entries.items() if entry.ok or not self._options.retry_errors}
        pending = [item for item in self._items if item.id not in done]
        todo = pending[: self._options.limit]
        before = [entries[item.id].ok for item in self._items if item.id in done]
        return todo, Summary(answered_before=sum(before), failed_before=len(before) - sum(before), left=len(pending))

    def _check_table(self) -> None:
        """A table that is there is only replaced by one that has its records."""
        output, journal, overwrite = self._options.output, self._options.journal, self._options.overwrite
        assert output is not None and journal is not None
        if self._options.is_table:
            check_suffix(output)
            refuse_place(output)
            if output.exists() and not journal.exists() and not overwrite:
                raise UsageError(
                    f"{printable(str(output))} is already there, but not {self._shown}, which it would be made of",
                    "Write to another file, or replace it with overwrite=True",
                )

    def run(
        self,
        model: Reasoner,
        on_record: Callable[[Item, Record], None] = lambda item, record: None,
        on_event: Callable[[Item, StageEvent], None] = lambda item, event: None,
    ) -> Summary:
        """Asks what is to be asked, and brings the output into order.

        Each record is in the file when `on_record` gets it: in the order in which answers end, which with `parallel`
        need not be that of the items. When all have ended, the file is put in order, and a table made.

        Raises:
            KeyboardInterrupt: Ctrl-C. What had been answered is in the file; what was being written is not.
            UsageError: the file was made with another model; or choices or a schema that no grammar can be made of.
            ResourceError: the disk is full or failing. What is in the file is whole.
        """
        self._agreement.check_model(model.info)
        self._begin()
        begin = time.perf_counter()

        def take(request: Request, outcome: Outcome) -> None:
            item: Item = request.key
            if not isinstance(outcome, (Answer, CotcliError)):
                on_event(item, outcome)
                return
            if isinstance(outcome, UsageError):
                raise outcome  # a schema that no grammar can be made of: nothing else would come of the other items
            record = self._record(model, item, outcome)
            if record is None:
                return
            # What is in the file is counted and told. Where there is none, Ctrl-C need not wait for who reads stdout.
            with deferred() if self._journal is not None else nullcontext():
                if self._journal is not None:
                    self._journal.append(record)
                self._count(bool(record["ok"]), time.perf_counter() - begin)
                on_record(item, record)

        self._take_all(model, take)
        self.finish()
        return self.summary

    def _take_all(self, model: Reasoner, take: Callable[[Request, Outcome], None]) -> None:
        """Every outcome until the last, or until there are errors enough.

        Raises:
            KeyboardInterrupt: after what had ended by then.
        """
        requests = (Request(item.source, item.question, self._config.params_of(item), item) for item in self.todo)
        stream = model.stream_all(requests, min(self._options.parallel, max(len(self.todo), 1)))
        interrupted = False
        try:
            for request, outcome in stream:
                interrupted |= _is_interrupted(outcome)
                take(request, outcome)
                if self._has_enough():
                    break
        except KeyboardInterrupt:
            # If it came on this side, the stream has yet to hear of it, and may hold answers that have ended.
            with suppress(KeyboardInterrupt, StopIteration):
                take(*stream.throw(KeyboardInterrupt()))
                for request, outcome in stream:
                    take(request, outcome)
            raise
        finally:
            stream.close()
        if interrupted:
            raise KeyboardInterrupt

    def _begin(self) -> None:
        if self._journal is not None and not self._begun:
            self._journal.begin(without=(item.id for item in self.todo))
        self._begun = True

    def _has_enough(self) -> bool:
        most = self._options.max_errors
        return most is not None and self.summary.failed >= most

    @property
    def dropped(self) -> bool:
        """Whether what was in the file is gone, so that to go on it must not be overwritten again."""
        return self._journal is not None and self._journal.dropped

    @property
    def stopped(self) -> bool:
        """Whether `max_errors` has left items unasked."""
        return self._has_enough() and self.summary.answered + self.summary.failed < len(self.todo)

    def _record(self, model: Reasoner, item: Item, outcome: Answer | CotcliError) -> Record | None:
        if _is_interrupted(outcome):
            return None
        if isinstance(outcome, Answer):
            return answer_record(outcome, item.id)
        return error_record(outcome, item.id, item.question, model.info, self._config.params_of(item))

    def _count(self, ok: bool, seconds: float) -> None:
        was = self.summary
        self.summary = replace(
            was, answered=was.answered + ok, failed=was.failed + (not ok), left=was.left - 1, seconds=seconds
        )

    def finish(self) -> None:
        """Brings the records into the order of the items, and makes the table of them; drops what is to be dropped."""
        if self._journal is None:
            return
        self._begin()
        self._journal.sort(self._order)
        output = self._options.output
        if self._options.is_table and output is not None:
            path = Path(os.path.realpath(output))
            part = beside(path, "part")
            try:
                with whole_file(part, like=path) as file:
                    write_table(file, output.suffix.lower(), self._journal.records())
                rename(part, path)
            except OSError as error:
                raise cannot_write(printable(str(output)), error, self._journal.how) from error

    def close(self) -> None:
        """Frees the output for others."""
        if self._journal is not None:
            self._journal.close()

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _is_interrupted(outcome: Outcome) -> bool:
    return isinstance(outcome, Answer) and outcome.finish_reason == "interrupted"
