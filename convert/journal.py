"""What an unfinished conversion has done so far, one JSON line a step, each on the disk before the next step begins.

A conversion that is killed goes on from the shards that stand here. The first line names what is being converted into
what; if that does not fit, nothing in the journal counts. Knows nothing of tensors and GGUF files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Journal:
    """The steps of one conversion.

    Args:
        path: its file; None keeps the steps in memory only, for a conversion that is not to be resumed.
        key: what is being converted into what.
    """

    def __init__(self, path: Path | None, key: Mapping[str, str]) -> None:
        self._path = path
        self._key = dict(key)
        self.digests: dict[str, dict[str, str]] = {}
        """Of each shard that is done, the digest of each of its tensors."""
        self.finishing: dict[str, Any] | None = None
        """The record of the pair, once both files are whole and have only to be given their names."""
        lines = _lines(path)
        self._begun = lines[:1] == [{"key": self._key}]
        for line in lines[1:] if self._begun else []:
            if "shard" in line:
                self.digests[line["shard"]] = line["digests"]
            else:
                self.finishing = line["finishing"]

    @property
    def begun(self) -> bool:
        """Whether there is anything to go on from."""
        return self._begun

    def restart(self) -> None:
        """Forgets everything."""
        self.digests, self.finishing, self._begun = {}, None, False
        if self._path is not None:
            self._path.write_bytes(b"")
        self._append({"key": self._key})
        self._begun = True

    def shard_done(self, shard: str, digests: Mapping[str, str]) -> None:
        """All of this shard's tensors are on the disk."""
        self.digests[shard] = dict(digests)
        self._append({"shard": shard, "digests": self.digests[shard]})

    def finish(self, record: Mapping[str, Any]) -> None:
        """Both files are whole and on the disk."""
        self.finishing = dict(record)
        self._append({"finishing": self.finishing})

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        with self._path.open("r+b") as file:
            whole = file.read()
            file.seek(whole.rfind(b"\n") + 1)  # over a line that was cut when the process was killed
            file.write(json.dumps(line).encode() + b"\n")
            file.truncate()
            file.flush()
            os.fsync(file.fileno())


def journal_key(path: Path) -> dict[str, str] | None:
    """What the journal at ``path`` is about; None if there is none."""
    lines = _lines(path)
    return None if not lines else {str(key): str(value) for key, value in lines[0].get("key", {}).items()}


def is_finished(path: Path) -> bool:
    """Whether the conversion of this journal has come to its last steps."""
    return any("finishing" in line for line in _lines(path))


def _lines(path: Path | None) -> list[dict[str, Any]]:
    """The journal's whole lines; none if it is damaged, since then nothing in it can be relied on."""
    try:
        data = b"" if path is None else path.read_bytes()
        lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    except (FileNotFoundError, ValueError):
        return []
    return lines if all(isinstance(line, dict) for line in lines) else []
