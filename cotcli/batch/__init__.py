"""Many questions, one record each, in a file that a killed run leaves whole and the next one goes on with.

    items      what is asked, and its id
    folders    paths, globs, folders, URLs, lists of them -> items
    questions  JSON Lines, CSV, TSV -> items
    agreement  whether the records that are there agree with what would be asked now
    run_config what all records of one file have in common
    journal    the file of records
    run        items without a record -> answers -> records
    table      records -> CSV, Parquet

Knows nothing about options or the terminal. From Python:

    import cotcli
    from cotcli import batch

    with cotcli.load("demo") as model:
        items = batch.from_paths("How many red circles are there?", ["photos"])
        summary = batch.ask_all(model, items, "answers.jsonl")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotcli.answer import GenerationParams
from cotcli.batch.folders import NameFilter, from_list, from_paths
from cotcli.batch.items import Item
from cotcli.batch.questions import from_questions
from cotcli.batch.run import Batch, BatchOptions, Summary
from cotcli.batch.run_config import RunConfig

if TYPE_CHECKING:
    from cotcli.generate import Reasoner

__all__ = [
    "Batch",
    "BatchOptions",
    "Item",
    "NameFilter",
    "RunConfig",
    "Summary",
    "ask_all",
    "from_list",
    "from_paths",
    "from_questions",
]


def ask_all(
    model: Reasoner,
    items: Sequence[Item],
    output: str | PathLike[str] | None = None,
    params: GenerationParams | None = None,
    *,
    on_record: Callable[[Item, dict[str, Any]], None] = lambda item, record: None,
    **options: Any,
) -> Summary:
    """What `cotcli batch` does: asks every item that has no record in the file yet.

    Where all items ask the same, the file is about that question, and takes no other. Rows of a file of questions have
    their own: that file may grow, and its rows may be asked some at a time.

    Args:
        items: from `from_paths`, `from_list` or `from_questions`.
        output: a `.jsonl`, `.csv` or `.parquet` file; None keeps no records.
        params: how to generate; the model's own defaults when None.
        on_record: called with each record when it is in the file.
        options: of `BatchOptions`: `parallel`, `retry_errors`, `max_errors`, `limit`, `overwrite`.

    Raises:
        UsageError: the file has other records, or was made with another model, other parameters or questions.
        ResourceError: it cannot be written, or another process is writing it.
        KeyboardInterrupt: Ctrl-C. What had been answered is in the file.
    """
    # What all ask is what the file is about, unless they are rows, which come and go with questions of their own.
    questions = {item.question for item in items}
    own = any(item.rows or item.choices is not None for item in items)
    question = questions.pop() if len(questions) == 1 and not own else None
    config = RunConfig.of(model.info, params or model.defaults, question)
    with Batch(items, config, BatchOptions(None if output is None else Path(output), **options)) as batch:
        return batch.run(model, on_record)
