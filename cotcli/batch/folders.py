"""Folders, globs, files, URLs and lists of them -> items.

Lists names, opens no picture, and knows which names look like pictures. Folders are searched at any depth in the order
of their paths. What begins with a dot in them is left out, as shells do; links to folders are followed, and no folder
is listed twice, so that loops end.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from cotcli.batch.items import Item, distinct, id_of
from cotcli.errors import ImageError, UsageError
from cotcli.image.sources import STDIN, expand_sources, is_url
from cotcli.printable import printable

# fmt: off
EXTENSIONS = (
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
)
# fmt: on
"""What a file in a folder is taken for a picture by, unless told otherwise."""


@dataclass(frozen=True)
class NameFilter:
    """Which files of folders and globs are meant; upper and lower case are the same.

    A pattern without a slash is about names at any depth, one with a slash about the path from the folder that was
    given, where `*` matches slashes too. A folder that is excluded is not entered.

    Attributes:
        include: one of these must match; where there are none, folders give files named like pictures.
        exclude: none of these may match.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def allows(self, path: PurePath, *, by_extension: bool = True) -> bool:
        """Whether a file is meant, by its path in the folder."""
        if _matches(path, self.exclude):
            return False
        if self.include:
            return _matches(path, self.include)
        return not by_extension or path.suffix.lower() in EXTENSIONS

    def enters(self, path: PurePath) -> bool:
        """Whether a folder is looked into."""
        return not _matches(path, self.exclude)


def _matches(path: PurePath, patterns: Sequence[str]) -> bool:
    whole, name = path.as_posix().lower(), path.name.lower()
    for pattern in patterns:
        pattern = pattern.lower().rstrip("/")
        if fnmatchcase(whole if "/" in pattern else name, pattern.lstrip("/")):
            return True
    return False


def from_paths(question: str, paths: Sequence[str], names: NameFilter = NameFilter()) -> list[Item]:
    """The pictures that command line arguments name, in their order; those of a folder or a glob sorted by path.

    A picture in a folder has its path from there as its id; one that was named itself has that name.

    Raises:
        ImageError: no such file, a folder that cannot be listed, or nothing found in one.
        UsageError: two pictures have the same id.
    """
    items: list[Item] = []
    for path in paths:
        if path == STDIN:
            raise UsageError(
                "a batch does not read a picture from stdin", "For a list of paths from stdin: from_list(…, '-')"
            )
        found = list(_of_argument(question, path, names))
        if not found:
            patterns = ", ".join(names.include) or " ".join(EXTENSIONS)
            raise ImageError(f"{printable(path)}: holds no picture ({patterns})", "For other names: include=GLOB")
        items += found
    return distinct(items)


def from_list(question: str, file: str, names: NameFilter = NameFilter(), *, null: bool = False) -> list[Item]:
    """The pictures that a file names, in its order: one a line, or with `null` each ended by a NUL byte.

    Paths start from the working folder; nothing in them is special. A folder stands for its pictures. Whether a file
    is there shows when it is opened.

    Args:
        file: a path, or `-` for stdin.

    Raises:
        UsageError: the list cannot be read, or two pictures have the same id.
        ImageError: a folder that cannot be listed.
    """
    items: list[Item] = []
    for number, name in _names(file, null):
        origin = f"{_shown(file)}:{number}"
        if not is_url(name) and os.path.isdir(name):
            items += (replace(found, origin=origin) for found in _of_folder(question, name, names))
        else:
            items.append(_named(question, name, origin))
    return distinct(items)


def _names(file: str, null: bool) -> Iterator[tuple[int, str]]:
    data = _read(file)
    if not null and b"\0" in data:
        raise UsageError(f"{_shown(file)} holds NUL bytes", "For what find -print0 writes: null=True")
    if null:
        parts = data.split(b"\0")
    else:
        parts = [line.removesuffix(b"\r") for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    for number, part in enumerate(parts, 1):
        if part:
            yield number, os.fsdecode(part)


def _shown(file: str) -> str:
    return "stdin" if file == STDIN else printable(file)


def _read(file: str) -> bytes:
    if file != STDIN:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise UsageError(f"{_shown(file)}: {error.strerror}") from None
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("stdin: no list is piped in", "For example: find photos | cotcli batch …")
    return sys.stdin.buffer.read()


def _of_argument(question: str, path: str, names: NameFilter) -> Iterator[Item]:
    if is_url(path):
        yield _named(question, path)
    elif os.path.isdir(path):
        yield from _of_folder(question, path, names)
    elif os.path.lexists(path):
        yield _named(question, path)
    else:
        # A glob, or else an error in the words of `cotcli ask`.
        for name in expand_sources([path]):
            if names.allows(PurePath(name), by_extension=False):
                yield _named(question, name)


def _named(question: str, name: str, origin: str = "") -> Item:
    return Item(id_of(name), name if is_url(name) else Path(name), question, None, origin)


def _of_folder(question: str, folder: str, names: NameFilter) -> Iterator[Item]:
    root = Path(folder)
    found = list(_files(root, names))
    for path in sorted(found, key=PurePath.as_posix):
        yield Item(path.as_posix(), root / path, question)


def _files(root: Path, names: NameFilter) -> Iterator[PurePath]:
    """Paths from `root` of the files that are meant, in any order.

    Links wait until all real folders have been listed, so that a folder in the tree keeps its own path.
    """
    seen: set[tuple[int, int]] = set()
    real, links = [PurePath()], list[PurePath]()
    while real or links:
        folder = real.pop() if real else links.pop()
        about = _stat(root / folder)
        if about is None or (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        found: list[PurePath] = []
        for entry in _entries(root / folder):
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if names.enters(path):
                    (links if entry.is_symlink() else found).append(path)
            elif names.allows(path) and _is_file(entry):
                yield path
        real += sorted(found, reverse=True)
        links.sort(reverse=True)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        shown = printable(str(folder))
        raise ImageError(
            f"{shown}: cannot be listed ({error.strerror})", f"To leave it out: exclude={printable(folder.name)}"
        ) from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Neither a pipe nor a device, which would be waited for; a link to nothing is one, and its record will say so."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
