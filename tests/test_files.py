"""Checksums, files that are whole or not there, and the sole right to something."""

from __future__ import annotations

import errno
import hashlib
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from cotcli.files import checksum, rename, sole_right, whole_file
from tests.failing_disk import fail_folder_sync


def test_checksums(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000 + b"end"  # more than one piece
    path = tmp_path / "x"
    path.write_bytes(data)
    pieces: list[int] = []
    assert checksum(path, on_bytes=pieces.append) == hashlib.sha256(data).hexdigest()
    assert len(pieces) > 1 and sum(pieces) == len(data)
    assert checksum(path, "sha1", head=b"head") == hashlib.sha1(b"head" + data).hexdigest()


def test_half_a_file_is_gone(tmp_path: Path) -> None:
    part = tmp_path / "part"
    with pytest.raises(KeyError), whole_file(part) as file:
        file.write(b"half")
        raise KeyError
    assert not part.exists()
    with whole_file(part) as file:
        file.write(b"whole")
    assert part.read_bytes() == b"whole"


@pytest.mark.parametrize(("error", "is_told"), [(errno.EIO, True), (errno.ENOSPC, True), (errno.EINVAL, False)])
def test_a_folder_that_does_not_reach_the_disk(
    tmp_path: Path, error: int, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "part").write_text("new")
    fail_folder_sync(monkeypatch, error)
    with ExitStack() as stack:
        if is_told:
            stack.enter_context(pytest.raises(OSError, match=os.strerror(error)))
        rename(tmp_path / "part", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="there nobody can remove a file that another has open")
def test_who_has_opened_a_file_that_then_goes_gets_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    lock, flock = tmp_path / "x.lock", fcntl.flock
    first = ExitStack()
    first.enter_context(sole_right(lock))

    def late(file: Any, operation: int) -> None:
        """Between the second's opening of the file and its locking it, the first leaves."""
        monkeypatch.undo()
        first.close()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with sole_right(lock):
        assert lock.exists()
        with pytest.raises(TimeoutError), sole_right(lock):
            pass
    assert list(tmp_path.iterdir()) == []
