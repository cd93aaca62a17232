"""What is about to be installed: which files it is made of, what of them is to be downloaded, what disk it takes.

Knows sizes, and what is free. Knows nothing of how they come about.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.sources import Origin
from cotcli.errors import ResourceError
from cotcli.install import size_text


@dataclass(frozen=True)
class DiskNeeds:
    """Bytes: the most that will be taken besides what is taken now, how many of them by the largest shard, and free."""

    total: int
    shard: int
    free: int

    def check(self, folder: Path) -> None:
        """Raises ResourceError if ``folder`` has not that much."""
        if self.free < self.total:
            shard = f", {size_text(self.shard)} of it for one shard at a time" if self.shard else ""
            raise ResourceError(
                f"{folder} has {size_text(self.free)} free, the model needs {size_text(self.total)}{shard}",
                "Free some disk, take a smaller --type, or another folder (convert --out, COTCLI_HOME)",
            )


@dataclass(frozen=True)
class Survey:
    """What ``convert`` or ``install_ready`` is about to do. Sizes are in bytes, ``result_bytes`` that of the pair.

    ``files`` are the names and sizes of the safetensors files, or of a pair that lies ready; ``to_fetch`` what of them
    is still to be downloaded.
    """

    language: Path
    origin: Origin | None
    files: Mapping[str, int]
    to_fetch: Mapping[str, int]
    result_bytes: int
    disk: DiskNeeds


def free_bytes(folder: Path) -> int:
    """What is free where the folder is or will be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
