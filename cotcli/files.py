"""Files on this machine: their checksums, written whole or not at all, and by one process at a time.

Knows disks and what they lose in a power cut. Knows nothing of what is in a file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's errors where there is no room: on the disk, in the user's share of it, in a file that may not grow."""
# What fsync of a folder, or opening one for it, says on systems and file systems that cannot do it; Windows: EACCES.
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM, errno.EBADF)
_BLOCK = 1 << 20
# For who is just leaving, or only looks for what killed processes have left.
_PATIENCE_S = 0.2


def checksum(
    path: Path, kind: str = "sha256", *, head: bytes = b"", on_bytes: Callable[[int], None] = lambda count: None
) -> str:
    """Of all bytes of a file, in hexadecimal.

    Args:
        kind: a name that `hashlib.new` takes.
        head: what comes before them.
        on_bytes: called with the number of bytes after each piece.
    """
    digest = hashlib.new(kind, head, usedforsecurity=False)
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_BLOCK):
            digest.update(piece)
            on_bytes(len(piece))
    return digest.hexdigest()


def allocated(path: Path) -> int:
    """Bytes on the disk: what is unfinished has holes."""
    status = path.stat()
    return min(status.st_size, getattr(status, "st_blocks", status.st_size) * 512)


@contextmanager
def sole_right(lock: Path, *, patience: float = _PATIENCE_S) -> Iterator[None]:
    """What one process at a time has, by a lock on a file that is there only as long as somebody has it.

    Args:
        patience: for how many seconds to wait for another process that has it.

    Raises:
        TimeoutError: another process has it.
        OSError: the file cannot be made or locked.
    """
    from filelock import FileLock  # not at the top: few commands need it

    with FileLock(lock, timeout=patience):
        try:
            yield
        finally:
            # While it is held: who has opened the file already gets a lock of no name, which filelock tries again.
            with suppress(OSError):  # Windows removes no file that is open; there filelock does, afterwards
                lock.unlink()


@contextmanager
def whole_file(part: Path, *, like: Path | None = None) -> Iterator[BinaryIO]:
    """A new binary file that has reached the disk when the block ends, or is gone.

    Args:
        like: a file whose mode it gets, if that is there.
    """
    try:
        with part.open("wb") as file:
            if like is not None:
                with suppress(FileNotFoundError):
                    os.chmod(part, stat.S_IMODE(like.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise


def rename(part: Path, path: Path) -> None:
    """Puts a file in the place of another; a power cut leaves one of them.

    Raises:
        OSError: it cannot be put there, or, when it is there, it is not sure that it has reached the disk.
    """
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """So that a power cut does not forget a new name, where a system and its disks can do that.

    Raises:
        OSError: they can, and it failed.
    """
    try:
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
