"""Vision states on disk, so that a picture asked about again, in whatever process, is not encoded again.

Knows files, keys and locks; knows nothing of what is in a picture or a model. One file an entry, `KEY.states`: a header
with a checksum, then the states as float32, just as they were computed, so that an answer is the same with and without.

The key is a digest of what goes into the vision tower, which is the tiles, and of what the tower is
(`Engine.vision_identity`). Not of the picture's file: a Pillow that decodes it otherwise and a change of preprocessing
then find nothing by themselves, and the same picture under another name or with other metadata is found.

Writers take turns by a lock: a file is written beside its name, then renamed. What is there unfinished while the lock
is held, a killed process has left. Readers take no lock; a file that is removed or replaced stays whole for whoever has
it open. Whatever fails, the picture is encoded as if there were no cache.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cotcli.files import whole_file
from cotcli.printable import printable
from cotcli.specs import cache_home

if TYPE_CHECKING:
    from cotcli.engine import Engine
    from cotcli.image import PreparedImage

DEFAULT_BYTES = 4_000_000_000  # 38 pictures at the 11B's 105 MB each
# What is encoded faster is not kept: on such a device, or for such a model, the disk would not win much.
WORTH_S = 1.0
_FREE_BYTES = 1_000_000_000  # what a cache leaves free on the disk
_PATIENCE_S = 10.0  # for other writers; some 100 MB each
_SUFFIX, _UNFINISHED = ".states", ".unfinished"
_MAGIC, _VERSION = b"cotcli\0\n", 1
# magic, version, rows, columns, key, checksum of all that and the states
_HEADER = struct.Struct("<8sIII32s32s")


@dataclass(frozen=True)
class CacheUsage:
    """What a cache takes: bytes of all its files, and entries."""

    bytes: int
    entries: int


@dataclass(frozen=True)
class _Entry:
    path: Path
    bytes: int
    used_ns: int


class ImageCache:
    """A folder of vision states; any number of processes may share it.

    Args:
        folder: None takes `default_folder()`. It is made when something is first kept.
        max_bytes: the files least recently used are removed beyond this; 0 keeps nothing.
        on_note: called with a line for the user when a picture is found, and, once for each reason, when the cache
            fails.
    """

    def __init__(
        self, folder: Path | None = None, max_bytes: int = DEFAULT_BYTES, on_note: Callable[[str], None] | None = None
    ) -> None:
        self.folder = folder or default_folder()
        self.max_bytes = max_bytes
        self._on_note = on_note or (lambda text: None)
        self._failures: set[str] = set()

    def load(self, key: str) -> npt.NDArray[np.float32] | None:
        """The states of a key, shape (rows, columns); None where there are none, or none that are whole."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                states = _read(file, key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed(f"cannot be read: {error.strerror or error}")
            return None
        if states is None:
            self._on_note(f"image cache: {path.name} is damaged and is removed")
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # its last use, which `noatime` does not record
        return states

    def store(self, key: str, states: npt.NDArray[np.float32]) -> bool:
        """Keeps the states of a key; whether they are kept now. Never raises an `OSError`."""
        size = _HEADER.size + states.nbytes
        if size > self.max_bytes:
            return False
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # others need not see what was asked about
            with self._locked():
                path = self._path(key)
                if not path.exists():  # another process may have been faster
                    self._remove_oldest(self.max_bytes - size)
                    if shutil.disk_usage(self.folder).free < size + _FREE_BYTES:
                        self._failed("the disk is nearly full")
                        return False
                    _write(path, key, states)
        except OSError as error:
            self._failed(f"cannot be written: {error.strerror or error}")
            return False
        return True

    def usage(self) -> CacheUsage:
        """What is there now."""
        files = self._files()
        return CacheUsage(sum(file.bytes for file in files), sum(file.path.suffix == _SUFFIX for file in files))

    def clear(self) -> CacheUsage:
        """Removes everything, and says how much that was.

        Raises:
            OSError: a file cannot be removed, or another process keeps writing.
        """
        if not self.folder.is_dir():
            return CacheUsage(0, 0)
        with self._locked():
            before = self.usage()
            for file in self._files():
                file.path.unlink(missing_ok=True)
        return before

    def found(self, source: str) -> None:
        """Says that a picture was found."""
        self._on_note(f"{printable(source)}: already encoded, from the image cache")

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _files(self) -> list[_Entry]:
        """Finished and unfinished files, the least recently used first."""
        found = []
        with suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name.endswith((_SUFFIX, _UNFINISHED)):
                    with suppress(FileNotFoundError):
                        status = os.stat(entry.path)
                        found.append(_Entry(Path(entry.path), status.st_size, status.st_mtime_ns))
        return sorted(found, key=lambda file: file.used_ns)

    def _remove_oldest(self, room: int) -> None:
        """Leaves files of `room` bytes at most, and none that are unfinished. For the holder of the lock."""
        files = self._files()
        total = sum(file.bytes for file in files)
        for file in sorted(files, key=lambda file: file.path.suffix != _UNFINISHED):
            if file.path.suffix == _UNFINISHED or total > room:
                with suppress(OSError):  # open in another process, on Windows
                    file.path.unlink(missing_ok=True)
                    total -= file.bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        from filelock import FileLock  # not at the top: only writers need it

        with FileLock(self.folder / ".lock", timeout=_PATIENCE_S):
            yield

    def _failed(self, reason: str) -> None:
        if reason not in self._failures:
            self._failures.add(reason)
            self._on_note(f"image cache {self.folder}: {reason}")


def default_folder() -> Path:
    return cache_home() / "images"


def encode(
    engine: Engine, image: PreparedImage, cache: ImageCache | None, on_progress: Callable[[int, int], None]
) -> npt.NDArray[np.float32]:
    """`engine.encode`, or what it gave for the same tiles before: bit for bit the same."""
    if cache is None:
        return engine.encode(image, on_progress)
    key = key_of(image, engine.vision_identity)
    states = cache.load(key)
    if states is not None:
        cache.found(image.source)
        return states
    begin = time.perf_counter()
    states = engine.encode(image, on_progress)
    if time.perf_counter() - begin >= WORTH_S:
        cache.store(key, states)
    return states


def key_of(image: PreparedImage, vision_identity: str) -> str:
    """64 hex digits for the tiles and the tower."""
    head = f"{_VERSION} {vision_identity} {image.aspect_ratio_id} {image.num_tiles} {image.pixel_values.shape}\n"
    digest = hashlib.sha256(head.encode())
    digest.update(np.ascontiguousarray(image.pixel_values[: image.num_tiles]).data)  # the others are 0
    return digest.hexdigest()


def _write(path: Path, key: str, states: npt.NDArray[np.float32]) -> None:
    """Under the lock: no other process writes this name."""
    data = np.ascontiguousarray(states, "<f4")
    unfinished = path.with_suffix(_UNFINISHED)
    with whole_file(unfinished) as file:
        file.write(_header(key, data))
        file.write(data.data)
    os.replace(unfinished, path)


def _read(file: io.BufferedReader, key: str) -> npt.NDArray[np.float32] | None:
    """None unless every byte is as it was written under this key."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    magic, version, rows, columns, _, _ = _HEADER.unpack(header)
    size = _HEADER.size + rows * columns * 4
    known = (magic, version) == (_MAGIC, _VERSION)
    if not known or not rows * columns or os.fstat(file.fileno()).st_size != size:
        return None
    states: npt.NDArray[np.float32] = np.empty((rows, columns), "<f4")
    whole = file.readinto(states.data.cast("B")) == states.nbytes and _header(key, states) == header
    return states if whole else None


def _header(key: str, states: npt.NDArray[np.float32]) -> bytes:
    rows, columns = states.shape
    fields = (_MAGIC, _VERSION, rows, columns, bytes.fromhex(key))
    # Without opcodes for SHA-256, twice as fast.
    checksum = hashlib.blake2b(_HEADER.pack(*fields, b""), digest_size=32)
    checksum.update(states.data)
    return _HEADER.pack(*fields, checksum.digest())
