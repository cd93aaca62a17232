"""Files that are whole or not there, and folders that hold one set of pictures and no other.

Knows names, pictures by number and lists of JSON lines. Knows nothing about what is in them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PART = ".part"


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Where to write a file; at the block's end it gets its name, so that no reader meets half of it.

    An error or a stop leaves what was there, and beside it `NAME.part`, which the next write takes over.
    """
    part = path.with_name(path.name + PART)
    yield part
    os.replace(part, path)


def write_whole(path: Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with aside(path) as part:
        part.write_text(text, encoding="utf-8")


def foreign_file(folder: Path, picture: Callable[[int], str], number: int, lists: Mapping[str, Any]) -> str | None:
    """A file in a folder that does not belong to a set, None when there is none.

    Args:
        picture: the path of a picture of the set by its number; its name is that number and a suffix.
        number: how many pictures the set has.
        lists: name -> first record of each list of the set. A list that begins with another is another set's, also
            when it is unfinished (`NAME.part`).
    """
    for path in _entries(folder, Path(picture(0)).parent.name):
        name = path.relative_to(folder).as_posix()
        of = name.removesuffix(PART)
        if of in lists:
            if _begins_otherwise(path, lists[of]):
                return name
        elif not (path.stem.isdecimal() and int(path.stem) < number and picture(int(path.stem)) == name):
            return name
    return None


def _entries(folder: Path, below: str) -> Iterator[Path]:
    """What is in the folder, and in the one below it that holds pictures."""
    for path in sorted(folder.iterdir()):
        if path.name == below and path.is_dir():
            yield from sorted(path.iterdir())
        else:
            yield path


def _begins_otherwise(path: Path, first: Any) -> bool:
    """Whether the list's first line, if one is there whole, is another than this record's."""
    if not path.is_file():
        return True
    with path.open("rb") as lines:
        line = lines.readline()
    if not line.endswith(b"\n"):  # of a run that was stopped at once; but a list without a line was never ours
        return path.suffix != PART
    try:
        return bool(json.loads(line) != json.loads(json.dumps(first)))
    except ValueError:
        return True
