"""Where a checkpoint's files come from: a folder here, or a repository on the hub.

Everything else in ``convert`` sees a ``Source``: small files in a folder, and shards that are local only while they are
being read. ``convert.repository`` has the other one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Protocol

from cotcli.errors import CheckpointError

_PATIENCE = 2.0  # seconds for a fetch that is cancelled


@dataclass(frozen=True)
class Origin:
    """What names a checkpoint's content for good: a repository and its commit."""

    repo: str
    revision: str


class Source(Protocol):
    """A checkpoint's files. A shard is called by its file's name."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def folder(self) -> Path:
        """Holds config.json, tokenizer.json and their like."""

    @property
    def origin(self) -> Origin | None:
        """None where the content may change, and a conversion therefore starts from the beginning each time."""

    def size(self, shard: str) -> int:
        """Bytes of a shard; CheckpointError if there is no such file."""

    def head(self, shard: str, count: int) -> bytes:
        """The first ``count`` bytes of a shard, or all if it is shorter."""

    def missing(self, shard: str, into: Path) -> int:
        """How many bytes ``fetch`` would still add to the folder ``into``."""

    def takes(self, shard: str, into: Path) -> int:
        """How many bytes ``into`` holds of a shard between ``fetch`` and ``release``."""

    def fetch(self, shard: str, into: Path) -> Path:
        """A shard as a local file, complete and verified; downloaded into ``into`` if it is not here yet."""

    def release(self, shard: str, into: Path) -> None:
        """The shard is not needed any more: what ``fetch`` has put into ``into`` goes."""

    def cancel(self) -> None:
        """Makes a ``fetch`` in another thread end soon, by an exception."""


@dataclass(frozen=True)
class Folder:
    """A checkpoint in a folder of this machine, which stays as it is."""

    folder: Path

    @property
    def origin(self) -> Origin | None:
        return None

    @property
    def name(self) -> str:
        return str(self.folder)

    def size(self, shard: str) -> int:
        try:
            return (self.folder / shard).stat().st_size
        except OSError as error:
            raise CheckpointError(f"{self.folder / shard} is missing", "Download the checkpoint again") from error

    def head(self, shard: str, count: int) -> bytes:
        path = self.folder / shard
        try:
            with path.open("rb") as file:
                return file.read(count)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error

    def missing(self, shard: str, into: Path) -> int:
        return 0

    def takes(self, shard: str, into: Path) -> int:
        return 0

    def fetch(self, shard: str, into: Path) -> Path:
        return self.folder / shard

    def release(self, shard: str, into: Path) -> None:
        pass

    def cancel(self) -> None:
        pass


def fetched(
    source: Source, shards: Sequence[str], into: Path, room: Callable[[int], bool]
) -> Iterator[tuple[str, Path]]:
    """Each shard with its local file, which is released when the next one is asked for.

    While the caller works on one, the next is fetched, if ``room`` says that the disk has that many bytes to spare: so
    at most two are here at a time.
    """
    ahead: _Fetch | None = None
    try:
        for shard, following in zip_longest(shards, shards[1:]):
            path = ahead.result() if ahead is not None else source.fetch(shard, into)
            ahead = None
            if following is not None and room(source.missing(following, into)):
                ahead = _Fetch(source, following, into)
            yield shard, path
            source.release(shard, into)
    finally:
        if ahead is not None:
            source.cancel()
            ahead.join(_PATIENCE)


class _Fetch(threading.Thread):
    """One shard on its way. A daemon: a server that does not answer must not keep an interrupted process alive."""

    def __init__(self, source: Source, shard: str, into: Path) -> None:
        super().__init__(name=f"fetch {shard}", daemon=True)
        self._fetch = partial(source.fetch, shard, into)
        self._path: Path | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._path = self._fetch()
        except BaseException as error:
            self._error = error

    def result(self) -> Path:
        """Waits for it; raises what it raised."""
        while self.is_alive():
            self.join(0.5)  # not for ever, which on Windows would shut out Ctrl-C
        if self._error is not None:
            raise self._error
        assert self._path is not None
        return self._path
