"""Disks that fail as one likes: they are not to be had, so the system call is made to say so."""

from __future__ import annotations

import os
import stat

import pytest


def fail_folder_sync(monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    """From now on, fsync of any folder fails so; that of files does not."""
    if os.name == "nt":
        pytest.skip("there no folder can be synced")
    fsync = os.fsync

    def failing(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(error, os.strerror(error))
        fsync(file)

    monkeypatch.setattr(os, "fsync", failing)
