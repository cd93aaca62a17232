"""What is asked: one question about one picture, under an id that its record keeps.

Knows no files but their names, and no records.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cotcli.errors import ImageError, UsageError
from cotcli.image.limits import ImageLimits
from cotcli.image.sources import is_url, name_of, read_source
from cotcli.printable import printable

_Asked = tuple[str | Path, str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Item:
    """One question about one picture.

    Attributes:
        id: what its record is known by: a picture's path relative to the folder that was given, or what a row says.
        source: a file as a path object, a URL as text.
        question: what to ask.
        choices: the conclusion is one of these; None leaves that to the parameters of the whole batch.
        origin: where it was named, for errors: `list.txt:3`; empty for the command line.
        rows: all of the file of questions that it is a row of; empty if it is none.
    """

    id: str
    source: str | Path
    question: str
    choices: tuple[str, ...] | None = None
    origin: str = ""
    rows: Sequence[Item] = field(default=(), repr=False, compare=False)


def id_of(source: str) -> str:
    """The id of a picture that was named itself: its path or URL; of a data: URL, what records call it."""
    if not is_url(source):
        return Path(source).as_posix()
    if source[:5].lower() != "data:":
        return source
    try:
        return name_of(source, read_source(source, ImageLimits()))
    except ImageError:
        return name_of(source)


def distinct(items: Iterable[Item]) -> list[Item]:
    """The items in their order, each once.

    Raises:
        UsageError: two different ones have the same id.
    """
    found: dict[str, Item] = {}
    for item in items:
        other = found.setdefault(item.id, item)
        if _asked(other) != _asked(item):
            raise _same_id(other, item)
    return list(found.values())


def with_their_files(items: Sequence[Item]) -> list[Item]:
    """The items, and the other rows of their files of questions, those first, in the order of the files.

    Left out are other rows that have the id of a different one: a record of that id could be either's.
    """
    rows = [row for file in {id(item.rows): item.rows for item in items}.values() for row in file]
    chosen = {item.id: item for item in items}
    asked: dict[str, set[_Asked]] = {}
    for row in rows:
        asked.setdefault(row.id, set()).add(_asked(row))
    asked.update({id: {_asked(item)} for id, item in chosen.items()})
    clear = {row.id: row for row in rows if asked[row.id] == {_asked(row)}}
    return list({**clear, **chosen}.values())


def _asked(item: Item) -> _Asked:
    return item.source, item.question, item.choices


def _same_id(first: Item, second: Item) -> UsageError:
    where = f"{second.origin}: " if second.origin else ""
    of_first = f"{first.origin}, " if first.origin else ""
    message = f"{where}{_name(second)} has the id of {of_first}{_name(first)}: {printable(second.id)}"
    if second.origin:
        return UsageError(message, "Give each an id of its own")
    return UsageError(message, "Give the one folder that holds both, so that their paths in it tell them apart")


def _name(item: Item) -> str:
    return printable(str(item.source))
