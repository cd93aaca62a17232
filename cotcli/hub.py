"""Files of a Hugging Face repository -> verified files on this machine, through huggingface_hub's client.

Knows the hub: commits, and what it says of each file. Knows nothing of checkpoints and GGUF.

Sessions, addresses, tokens and refusals are the client's (HF_ENDPOINT, HF_TOKEN, `hf auth login`, HF_HUB_OFFLINE,
HF_HUB_CACHE all work). Its `hf_hub_download` deletes what a killed download has; here that is kept, and gone on with. A
file has its name only when its bytes are on the disk and hash to what the hub says they are.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TypeVar

from cotcli.errors import CotcliError, HubError
from cotcli.files import checksum
from cotcli.hub_errors import (
    AGAIN,
    NO_HUB,
    ONLINE,
    TRANSIENT,
    check_address,
    hub_errors,
    is_transient,
    no_hub_errors,
    page,
    status_of,
)
from cotcli.install import part_beside

OnBytes = Callable[[str, int, int], None]
"""Called with a file's name, the bytes of it that are here, and its size."""

_T = TypeVar("_T")
WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try, when one has brought nothing."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository: its path there, its bytes, and their SHA-256 (large files) or git object id (small).

    Neither is known of a file in a cache that has copies where it should have links, as on a Windows without them.
    """

    name: str
    size: int
    sha256: str | None
    git_oid: str | None


class HubRepo:
    """A repository at one commit.

    Args:
        id: `OWNER/NAME`.
        revision: a commit, branch or tag; None is the main branch. `commit` is what it stands for now.
        on_bytes: called, perhaps from another thread, while files come in.
        cached_with: ask nobody: the repository is what the Hugging Face cache has of it, this file among others.

    Raises:
        HubError: the hub cannot be reached, or has no such repository or revision for us; or the cache lacks the file.
    """

    def __init__(
        self,
        id: str,
        revision: str | None = None,
        on_bytes: OnBytes | None = None,
        cached_with: str | None = None,
    ) -> None:
        check_address()
        self.id = id
        self.offline = cached_with is not None
        self._on_bytes = on_bytes or (lambda name, done, total: None)
        self._cancelled = threading.Event()
        self.commit, self.files = self._ask(revision) if cached_with is None else self._look(revision, cached_with)

    def _ask(self, revision: str | None) -> tuple[str, Mapping[str, HubFile]]:
        """The commit and its files, as the hub has them."""
        from huggingface_hub import HfApi

        with hub_errors(self.id, revision), no_hub_errors():
            info = self._patiently(
                lambda: HfApi().model_info(self.id, revision=revision, files_metadata=True, timeout=30)
            )
        if not info.sha:
            raise HubError(f"the hub names no commit of {self.id}", NO_HUB)
        files = [
            HubFile(
                name=file.rfilename,
                size=file.size or 0,
                sha256=file.lfs.sha256 if file.lfs else None,
                git_oid=None if file.lfs else file.blob_id,
            )
            for file in info.siblings or []
        ]
        return info.sha, {file.name: file for file in files}

    def _look(self, revision: str | None, known: str) -> tuple[str, Mapping[str, HubFile]]:
        """The commit and its files, as the cache has them: links to files that have their hashes as names."""
        from huggingface_hub import try_to_load_from_cache

        with hub_errors(self.id, revision):
            path = try_to_load_from_cache(self.id, known, revision=revision)
        if not isinstance(path, str):
            raise HubError(f"{self.id} is not in the Hugging Face cache", ONLINE)
        folder = Path(path).parents[len(Path(known).parts) - 1]
        files = [
            _cached_file(path, path.relative_to(folder).as_posix()) for path in folder.rglob("*") if path.is_file()
        ]
        return folder.name, {file.name: file for file in files}

    def expect(self, name: str, sha256: str) -> None:
        """What a file must hash to, where nothing else says it."""
        self.files = {**self.files, name: replace(self.files[name], sha256=sha256)}

    def head(self, name: str, count: int) -> bytes:
        """The first `count` bytes of a file, or all of a shorter one."""
        from huggingface_hub import get_session, hf_raise_for_status

        cached = self.cached(name)
        if cached is not None:
            with cached.open("rb") as file:
                return file.read(count)

        def get() -> bytes:
            headers = {**self._headers(), "Range": f"bytes=0-{count - 1}"}
            head = bytearray()
            with get_session().stream("GET", self._url(name), headers=headers, timeout=_timeout()) as response:
                hf_raise_for_status(response)
                for piece in response.iter_bytes():
                    head += piece
                    if len(head) >= count:
                        break  # it may send the whole file in spite of Range
            return bytes(head[:count])

        with hub_errors(self.id, self.commit):
            return self._patiently(get)

    def cached(self, name: str) -> Path | None:
        """The file in the Hugging Face cache, where other tools may have put it; as yet unverified."""
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.id, name, revision=self.commit)
        return Path(path) if isinstance(path, str) and os.path.getsize(path) == self.files[name].size else None

    def missing(self, name: str, folder: Path) -> int:
        """How many bytes `fetch` would still add to a folder."""
        file, path = self.files[name], folder / name
        if path.exists() or self.cached(name) is not None:
            return 0
        return file.size - min(_size(_part(path, file)), file.size)

    def fetch(self, name: str, folder: Path) -> Path:
        """A verified file: from the cache if it is there, else downloaded into `folder`, from where it had got to.

        Raises:
            HubError: it cannot be had, or its bytes are not what the hub says; these are deleted then.
        """
        file, path = self.files[name], folder / name
        if path.exists():
            if _is(path, file):
                return path
            path.unlink()  # of another commit
        cached = self.cached(name)
        if cached is not None and _is(cached, file):
            return cached
        if self.offline:
            there = folder / name if cached is None else cached
            raise HubError(
                f"{name} of {self.id} is damaged in the Hugging Face cache",
                f"Delete {there.resolve()}, and start it again without --offline and HF_HUB_OFFLINE",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _part(path, file)
        if _size(part) > file.size:
            part.unlink()
        with hub_errors(self.id, self.commit):
            self._receive(file, part)
        if not _is(part, file):
            part.unlink()
            raise HubError(
                f"{name} of {self.id} came with other bytes than the hub says it has",
                "It was deleted. Start it again; if that does not help, something between here and the hub changes it",
            )
        with part.open("r+b") as done:
            os.fsync(done.fileno())
        os.replace(part, path)
        return path

    def cancel(self) -> None:
        """Makes a `fetch` in another thread end soon, by an exception."""
        self._cancelled.set()

    def _receive(self, file: HubFile, part: Path) -> None:
        """Goes on with a file until all of its bytes are there."""
        tries = 0
        with part.open("ab", buffering=0) as target:
            while (before := target.tell()) < file.size:
                problem: Exception = HubError(f"{self.id} sends too few bytes of {file.name}", AGAIN)
                try:
                    self._stream(file, target)
                except Exception as error:
                    if before and status_of(error) == 416:
                        target.truncate(0)
                        raise HubError(
                            f"{file.name} of {self.id} ends after {before} bytes; the hub says that it has {file.size}",
                            f"What came of it was deleted. Start it again; if that does not help, see {page(self.id)}",
                        ) from error
                    if not is_transient(error):
                        raise
                    problem = error
                if target.tell() >= file.size:
                    return
                tries = 0 if target.tell() > before else tries + 1
                if tries > len(WAITS):
                    raise problem
                self._wait(WAITS[max(tries - 1, 0)])

    def _stream(self, file: HubFile, target: BinaryIO) -> None:
        from huggingface_hub import get_session, hf_raise_for_status

        headers = self._headers()
        begin = target.tell()
        if begin:
            headers["Range"] = f"bytes={begin}-"
        self._on_bytes(file.name, begin, file.size)
        with get_session().stream("GET", self._url(file.name), headers=headers, timeout=_timeout()) as response:
            hf_raise_for_status(response)
            if begin and response.status_code != 206:  # it sends the whole file in spite of Range
                target.seek(0)
                target.truncate()
            for piece in response.iter_bytes():  # as it comes: what waits for more would be lost with the connection
                self._check_cancelled()
                view = memoryview(piece)
                while view:
                    view = view[target.write(view) :]
                self._on_bytes(file.name, target.tell(), file.size)
                if target.tell() > file.size:
                    return  # not that file

    def _headers(self) -> dict[str, str]:
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        # Compressed, a file's bytes could not be counted or gone on with.
        return {**build_hf_headers(library_name="cotcli"), "Accept-Encoding": "identity"}

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.id, name, revision=self.commit)

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """A short request, repeated while the hub says that it is only for now that it cannot."""
        for wait in (*WAITS[1:4], None):
            try:
                return call()
            except Exception as error:
                if wait is None or status_of(error) not in TRANSIENT:
                    raise
            self._wait(wait)
        raise AssertionError

    def _wait(self, seconds: float) -> None:
        self._cancelled.wait(seconds)
        self._check_cancelled()

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CotcliError("the download was cancelled")


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network. Raises HubError if HF_ENDPOINT cannot be read."""
    check_address()
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _part(path: Path, file: HubFile) -> Path:
    """Where a file's bytes are until they are all there; those of another commit's file have another place."""
    return part_beside(path.with_name(f"{path.name}.{(file.sha256 or file.git_oid or '')[:16]}"))


def _cached_file(path: Path, name: str) -> HubFile:
    """A file of a snapshot in the cache, whose blob is called by its hash."""
    blob = path.resolve().name if path.is_symlink() else ""
    known = re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob) is not None
    return HubFile(
        name=name,
        size=path.stat().st_size,
        sha256=blob if known and len(blob) == 64 else None,
        git_oid=blob if known and len(blob) == 40 else None,
    )


def _is(path: Path, file: HubFile) -> bool:
    """Whether a file has the bytes that the hub says it has."""
    size = _size(path)
    if size != file.size:
        return False
    if file.sha256 is not None:
        return checksum(path) == file.sha256
    return file.git_oid is None or checksum(path, "sha1", head=b"blob %d\0" % size) == file.git_oid


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _timeout() -> float:
    from huggingface_hub import constants

    return float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
