"""Whether the records that are there agree with what would be asked now: model, parameters, questions, pictures.

Knows the items and their pictures' bytes. Knows nothing of how records are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cotcli.answer import ModelInfo
from cotcli.batch.items import Item
from cotcli.batch.run_config import RunConfig
from cotcli.errors import UsageError
from cotcli.files import checksum
from cotcli.printable import printable


class Agreement:
    """Compares the records of one file, each by `check`, and then all by `check_rows`.

    Args:
        file: its name, for errors.
        items: what would be asked.
        config: with what.
        retry_errors: records of failures will be taken out, so that their pictures may have changed.
    """

    def __init__(self, file: str, items: Sequence[Item], config: RunConfig, *, retry_errors: bool) -> None:
        self._file, self._config, self._retry_errors = file, config, retry_errors
        self._items = {item.id: item for item in items}
        self._models: dict[str, Mapping[str, Any]] = {}
        self._questions: set[str] = set()
        self._any_of_items = False
        self._digests: dict[Path, str | None] = {}

    def check(self, record: Mapping[str, Any]) -> None:
        """One record.

        Raises:
            UsageError: it was made with other settings, or is about another picture.
        """
        item = self._items.get(record["id"])
        self._config.check(record, item, self._file)
        if item is not None:
            self._any_of_items = True
            if record["ok"] or not self._retry_errors:
                self._check_picture(record, item)
        if isinstance(record.get("question"), str):
            self._questions.add(record["question"])
        model = record.get("model")
        if model is not None:
            self._models.setdefault(repr(model), model)

    def check_rows(self) -> None:
        """Rows come and go, each with its question; but where none is left, the file was made with other questions.

        Raises:
            UsageError: no record is about an item, nor asks what one asks.
        """
        if self._config.question is not None or self._any_of_items or not self._items or not self._questions:
            return
        if not self._questions & {item.question for item in self._items.values()}:
            raise UsageError(
                f"{self._file} was made with other questions, such as {printable(repr(min(self._questions)))}",
                "Write to another file, or start afresh with overwrite=True",
            )

    def check_model(self, info: ModelInfo) -> None:
        """The model when it is loaded, of which all is known.

        Raises:
            UsageError: some record is another's.
        """
        loaded = RunConfig.of(info, self._config.params)
        for model in self._models.values():
            loaded.check({"model": model}, None, self._file)

    def _check_picture(self, record: Mapping[str, Any], item: Item) -> None:
        """A folder may have been moved; but a picture may have been changed, and another folder's have the same names.

        Raises:
            UsageError: the record is about another picture.
        """
        image = record.get("image")
        if image is None or not isinstance(item.source, Path):
            return
        if item.source not in self._digests:
            self._digests[item.source] = _digest(item.source)
        digest = self._digests[item.source]
        if digest is None or digest == image.get("sha256"):
            return
        then, now = printable(str(image.get("path"))), printable(str(item.source))
        if then == now:
            raise UsageError(
                f"{now} has changed since {self._file} was made ({printable(item.id)})",
                "Take its line out of that file to ask about it again, or write to another file",
            )
        raise UsageError(
            f"{self._file} has {printable(item.id)} as another picture, {then}, not {now}",
            "Write to another file, or give the one folder that holds both",
        )


def _digest(path: Path) -> str | None:
    """The SHA-256 of a file's bytes; None where there is none to be read."""
    try:
        return checksum(path) if path.is_file() else None
    except OSError:
        return None
