"""What a finished conversion cannot remove, and disks that fail while a pair gets its names."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.small_checkpoints import TINY, write_checkpoint
from convert import convert, tidy
from convert.journal import Journal
from convert.pair import JOURNAL
from cotcli.errors import ResourceError
from tests.failing_disk import fail_folder_sync


def hold(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Files of this name cannot be removed, as on Windows while somebody has them open."""
    unlink, unlink_path = os.unlink, Path.unlink

    def check(path: str | Path) -> None:
        if Path(path).name == name:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def held(path: str | Path, *, dir_fd: int | None = None) -> None:
        check(path)
        unlink(path, dir_fd=dir_fd)

    def held_path(path: Path, missing_ok: bool = False) -> None:
        check(path)
        unlink_path(path, missing_ok)

    monkeypatch.setattr(os, "unlink", held)
    monkeypatch.setattr(Path, "unlink", held_path)


@pytest.mark.parametrize("stuck", ["files/big.safetensors", "mmproj.part", JOURNAL])
def test_what_cannot_be_removed_keeps_its_journal(tmp_path: Path, stuck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    language, work = tmp_path / "x-F16.gguf", tmp_path / "x-F16.pull"
    (work / "files").mkdir(parents=True)
    for path in (language, work / "files" / "big.safetensors", work / "mmproj.part", work / "other"):
        path.touch()
    journal = Journal(work / JOURNAL, {"repo": "someone/x"})
    journal.restart()
    journal.finish({})
    with monkeypatch.context() as patched:
        hold(patched, Path(stuck).name)
        tidy(language)
    left = {path.relative_to(work).as_posix() for path in work.rglob("*") if path.is_file()}
    assert left == {stuck, JOURNAL}
    tidy(language)
    assert list(tmp_path.iterdir()) == [language]


def test_a_disk_that_fails_under_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=1))
    fail_folder_sync(monkeypatch, errno.EIO)
    with pytest.raises(ResourceError, match="cannot write to .*: " + os.strerror(errno.EIO)):
        convert(tmp_path / "tiny", tmp_path / "out", "f16", threads=1)
