"""What lies beside a model's language file: its other half, the record of both, the lock, what is unfinished.

Knows names of files and the form of the record. Knows nothing of GGUF, of `models.toml`, or of where models are kept.

`NAME-QUANT.gguf` is the language file, `NAME-QUANT.mmproj.gguf` the rest of the model, `NAME-QUANT.json` the record of
both, and `NAME-QUANT.pull` a folder with what an unfinished download has so far.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cotcli import __version__
from cotcli.errors import ModelError, ResourceError
from cotcli.files import checksum, rename, sole_right, whole_file

GGUF, MMPROJ, RECORD, WORK, LOCK, PART = ".gguf", ".mmproj.gguf", ".json", ".pull", ".lock", ".part"
VERSION = __version__


def mmproj_beside(language: Path) -> Path:
    """The other half of a pair."""
    return _beside(language, MMPROJ)


def record_beside(language: Path) -> Path:
    """Where the record of a pair is."""
    return _beside(language, RECORD)


def work_beside(language: Path) -> Path:
    """The folder of an unfinished download."""
    return _beside(language, WORK)


def downloads_beside(language: Path) -> Path:
    """Where an unfinished download keeps the files that it fetches."""
    return work_beside(language) / "files"


def lock_beside(language: Path) -> Path:
    """The file that a process holds locked while it writes this pair."""
    return language.with_name(language.name + LOCK)


def part_beside(path: Path) -> Path:
    """A file in the making."""
    return path.with_name(path.name + PART)


def _beside(language: Path, suffix: str) -> Path:
    return language.with_name(language.name.removesuffix(GGUF) + suffix)


@contextmanager
def locked(language: Path) -> Iterator[None]:
    """The sole right to write a pair.

    Raises:
        ResourceError: another process has it, or the folder cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            remove_leftovers(language.parent)
            stack.enter_context(sole_right(lock_beside(language)))
        except TimeoutError:
            raise ResourceError(f"another process is writing {language}", "Wait for it to end") from None
        except OSError as error:
            raise ResourceError(f"cannot write to {language.parent}: {error.strerror or error}") from error
        yield


def remove_leftovers(folder: Path) -> None:
    """Deletes the parts that killed conversions have left in a folder; those in the works keep their lock.

    What is left of a download stays: it is gone on with.
    """
    for path in sorted(folder.glob(f"*{GGUF}{LOCK}")):
        with suppress(OSError), sole_right(path, patience=0):
            language = path.with_name(path.name.removesuffix(LOCK))
            for file in (language, mmproj_beside(language), record_beside(language)):
                part_beside(file).unlink(missing_ok=True)


@dataclass(frozen=True)
class FileRecord:
    """One file of a pair: its name, its size in bytes, and the SHA-256 of its bytes in hexadecimal."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class InstallRecord:
    """What was installed, and from what.

    Attributes:
        repo, revision: the repository on the hub and its commit; None for a folder of this machine.
        vision_type, pair_id: the type of vision tower and projector, and what stands in both files; None where the
            pair came ready made.
        cotcli: the version that wrote it.
    """

    language: FileRecord
    mmproj: FileRecord
    quant: str
    vision_type: str | None = None
    pair_id: str | None = None
    repo: str | None = None
    revision: str | None = None
    cotcli: str = VERSION

    def to_dict(self) -> dict[str, Any]:
        """For JSON. It holds no times: the same files have the same record."""
        return {"version": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> InstallRecord:
        """Raises ValueError if it is no record; keys that later versions add are passed over."""
        try:
            halves = {half: FileRecord(**_of(FileRecord, content[half])) for half in ("language", "mmproj")}
            return cls(**{**_of(cls, content), **halves})
        except (KeyError, TypeError) as error:
            raise ValueError(f"it is no record of a model ({error})") from error


def _of(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {key: value for key, value in content.items() if key in names}


def write_record(language: Path, record: InstallRecord) -> None:
    """Puts the record beside a pair, whole or not at all."""
    path = record_beside(language)
    part = part_beside(path)
    with whole_file(part) as file:
        file.write(f"{json.dumps(record.to_dict(), indent=1, ensure_ascii=False)}\n".encode())
    rename(part, path)


def read_record(language: Path) -> InstallRecord | None:
    """The record of a pair; None if there is none.

    Raises:
        ModelError: the file is there and cannot be read.
    """
    path = record_beside(language)
    try:
        return InstallRecord.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "Remove it; the model itself runs without") from error


def size_text(count: int) -> str:
    """Bytes for people: 7.9 GB, 12.3 MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def file_record(path: Path, name: str | None = None) -> FileRecord:
    """What a file is now: reads all of it. `name` is what it is or will be called; None is its present name."""
    return FileRecord(name or path.name, path.stat().st_size, checksum(path))
