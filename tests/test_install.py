"""The lock of a pair: one process at a time, and no file of it afterwards."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from filelock import FileLock

from cotcli.errors import ResourceError
from cotcli.install import lock_beside, locked, remove_leftovers


def test_only_one_gets_in(tmp_path: Path) -> None:
    language = tmp_path / "x-F16.gguf"
    with locked(language), pytest.raises(ResourceError, match="another process is writing"), locked(language):
        pass
    assert not lock_beside(language).exists()
    with locked(language):
        assert lock_beside(language).exists()


def test_who_comes_while_another_leaves_is_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second gets the lock in the very moment in which the first lets it go."""
    language = tmp_path / "x-F16.gguf"
    release = FileLock.release
    with ExitStack() as second:
        begun = False

        def released(lock: FileLock, force: bool = False) -> None:
            nonlocal begun
            release(lock, force)
            if not begun:
                begun = True
                second.enter_context(locked(language))

        with monkeypatch.context() as patched, locked(language):
            patched.setattr(FileLock, "release", released)
        assert begun and lock_beside(language).exists()
        with pytest.raises(ResourceError, match="another process is writing"), locked(language):
            pass
    assert list(tmp_path.iterdir()) == []


def test_pairs_in_the_works_are_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s")

    with locked(tmp_path / "x-F16.gguf"), monkeypatch.context() as patched:
        part = tmp_path / "x-F16.gguf.part"
        part.touch()
        patched.setattr(time, "sleep", sleep)
        remove_leftovers(tmp_path)
        assert part.exists()
