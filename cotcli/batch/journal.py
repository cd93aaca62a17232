"""The file of records, one a line: what a batch has done, whatever ends it.

A record is appended whole and synced before the next, so a process that is killed leaves at most half a last line,
which the next one cuts off. Whatever else changes the file writes it anew beside it and renames. A lock keeps a second
process out. Knows lines, ids and disks. Knows nothing of models, questions or how records come about.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from cotcli.errors import ResourceError, UsageError
from cotcli.files import NO_ROOM, sole_right, sync_folder, whole_file
from cotcli.native.interrupt import deferred
from cotcli.printable import printable

Record = dict[str, Any]
Check = Callable[[Record], None]

# How every record begins (`cotcli.render.record`), and so the half-written ones that may be cut off.
_START = b'{"schema_version":'
_ELSEWHERE = "Write to another file, or start afresh with overwrite=True"


class Entry(NamedTuple):
    """Where a record is in the file, in bytes, and whether it is an answer."""

    ok: bool
    offset: int
    size: int


class Journal:
    """Owns the file, open for appending, and its lock, until `close`.

    Args:
        path: where to; the file is made if it is not there. A link stays one.
        check: called with each record that is there; may raise.
        fresh: leave what is there unread; `begin` then drops it.

    Attributes:
        entries: id -> entry, in the order of the file.
        dropped: whether what was there has been dropped, so that to go on it must not be dropped again.

    Raises:
        UsageError: no such folder, not a file, or a file that holds other things than records.
        ResourceError: it cannot be written, or another process is writing it.
    """

    def __init__(self, path: Path, check: Check = lambda record: None, *, fresh: bool = False) -> None:
        self._shown = printable(str(path))
        self._path = Path(os.path.realpath(path))
        self._part = beside(self._path, "part")
        self._fresh = fresh
        self.dropped = False
        self.entries: dict[str, Entry] = {}
        refuse_place(path)
        with self._disk_errors(), contextlib.ExitStack() as stack:
            try:
                stack.enter_context(sole_right(beside(self._path, "lock")))
            except TimeoutError:
                raise ResourceError(
                    f"another batch is writing {self._shown}", "Wait for it to end, or write to another file"
                ) from None
            self._made = not self._path.exists()
            self._file = self._open()
            self._size = os.fstat(self._file).st_size
            stack.callback(self._close_file)
            self._part.unlink(missing_ok=True)
            if not fresh:
                self.entries, whole, whole_last = read_entries(self._path, check)
                self._end_last_line(whole, whole_last)
            if self._made:
                sync_folder(self._path.parent)
            self._held = stack.pop_all()

    def begin(self, without: Iterable[str] = ()) -> None:
        """To be called once before `append`: takes records out of the file, all of them if it is to be `fresh`."""
        dropped = set(without)
        if self._fresh:
            with self._disk_errors(), deferred():
                os.ftruncate(self._file, 0)
                self._size = 0
                self.dropped = True
        elif dropped:
            self._rewrite([id for id in self.entries if id not in dropped])

    def append(self, record: Record) -> None:
        """Writes a record whole, or not at all, and syncs it. Ctrl-C waits for that.

        Raises:
            ResourceError: the disk is full or failing. What was written before is whole.
        """
        line = to_line(record)
        with deferred():
            try:
                _write_all(self._file, line)
                os.fsync(self._file)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._size)
                raise self._cannot(error) from error
            self.entries[record["id"]] = Entry(bool(record["ok"]), self._size, len(line))
            self._size += len(line)

    def sort(self, order: Iterable[str]) -> None:
        """Brings records into the order of these ids, those of no such id first, as they are."""
        wanted = dict.fromkeys(order)
        ids = [id for id in self.entries if id not in wanted] + [id for id in wanted if id in self.entries]
        if ids != list(self.entries):
            self._rewrite(ids)

    def records(self) -> Iterator[Record]:
        """All records, in the order of the file."""
        for entry in self.entries.values():
            record: Record = json.loads(self._line(entry))
            yield record

    def close(self) -> None:
        """Closes the file and frees it for others; one that was made for nothing is removed."""
        self._held.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)

    def _line(self, entry: Entry) -> bytes:
        os.lseek(self._file, entry.offset, os.SEEK_SET)
        line = b""
        while len(line) < entry.size:
            line += (piece := os.read(self._file, entry.size - len(line)))
            if not piece:
                raise ResourceError(f"{self._shown}: somebody else has shortened it", f"Start it again{self.how}")
        return line

    def _rewrite(self, ids: Iterable[str]) -> None:
        """Writes the file anew with these records, or leaves it as it is."""
        entries: dict[str, Entry] = {}
        size = 0
        with deferred(), self._disk_errors():
            with whole_file(self._part, like=self._path) as file:
                for id in ids:
                    old = self.entries[id]
                    file.write(self._line(old))
                    entries[id] = Entry(old.ok, size, old.size)
                    size += old.size
            os.close(self._file)  # Windows renames onto no open file
            try:
                os.replace(self._part, self._path)
                self.entries, self._size = entries, size
            finally:
                self._file = self._open()
            sync_folder(self._path.parent)

    def _end_last_line(self, whole: int, whole_last: bool) -> None:
        """Cuts half a line off, or gives a whole one its newline."""
        if whole_last:
            _write_all(self._file, b"\n")
            whole += 1
        elif whole < self._size:
            os.ftruncate(self._file, whole)
        self._size = whole

    def _close_file(self) -> None:
        os.close(self._file)
        if self._made and not self._size:
            with contextlib.suppress(OSError):
                self._path.unlink()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> ResourceError:
        return cannot_write(self._shown, error, self.how)

    @property
    def how(self) -> str:
        """How to start it again so that it goes on."""
        return " without overwrite=True" if self.dropped else ""


def beside(path: Path, what: str) -> Path:
    """The name of a file of our own beside that of a user, such that no user has one of that name."""
    return path.with_name(f".{path.name}.cotcli-{what}")


def cannot_write(shown: str, error: OSError, how: str = "") -> ResourceError:
    """What keeps a file from being written, and what to do about it.

    Args:
        how: to start it again, see ``Journal.how``.
    """
    if error.errno in NO_ROOM:
        return ResourceError(
            f"{shown}: no space left to write ({error.strerror}); what is in it is whole",
            f"Free some disk and start it again{how}: it goes on from there",
        )
    return ResourceError(f"{shown}: cannot be written ({error.strerror or error})", "Write to another file")


def refuse_place(path: Path) -> None:
    """Raises UsageError where no file can be."""
    shown = printable(str(path))
    if not path.parent.is_dir():
        folder = printable(str(path.parent))
        raise UsageError(f"{shown}: there is no folder {folder}", f"To make it: mkdir -p {folder}")
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"{shown}: is not a file", "Name a file, which need not be there yet")


def read_entries(path: Path, check: Check = lambda record: None) -> tuple[dict[str, Entry], int, bool]:
    """The entries of a file, how many of its bytes are whole lines, and whether what follows them is a whole record.

    Raises:
        UsageError: a line is not a record, or repeats the id of another.
    """
    entries: dict[str, Entry] = {}
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            ended = line.endswith(b"\n")
            record = _parsed(line)
            if record is None and not ended and _is_half(line):
                return entries, offset, False
            if record is None:
                raise UsageError(f"{printable(str(path))}:{number}: is not a record of cotcli batch", _ELSEWHERE)
            if record["id"] in entries:
                id = printable(record["id"])
                raise UsageError(f"{printable(str(path))}:{number}: repeats the id of another: {id}", _ELSEWHERE)
            check(record)
            entries[record["id"]] = Entry(record["ok"], offset, len(line) + (not ended))
            offset += len(line)
            if not ended:
                return entries, offset, True
    return entries, offset, False


def _parsed(line: bytes) -> Record | None:
    """A line's record; None if it is none that a batch can have written."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("schema_version") != 1:
        return None
    if not isinstance(record.get("id"), str) or not isinstance(record.get("ok"), bool):
        return None
    return record


def _is_half(line: bytes) -> bool:
    """Whether this can be the beginning of a record; a power cut may leave zeros after it."""
    begun = line.rstrip(b"\0")
    return begun.startswith(_START) or _START.startswith(begun)


def to_line(record: Record) -> bytes:
    """A record as its line. Half characters, as in the path of a file of odd bytes, are escaped, as on stdout."""
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8", "backslashreplace")


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
