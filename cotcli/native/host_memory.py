"""How much memory this process can still take, and how much there is.

On Linux what the kernel says is available, page cache that it can drop included, within the limits of the control
groups (v2 and v1) that a container or a batch system sets. On Windows what ggml says; on macOS that is all there is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cotcli.native import devices


@dataclass(frozen=True)
class HostMemory:
    """Bytes; ``limit`` says what sets them: "machine" or "control group"."""

    total: int
    available: int
    limit: str = "machine"


def host_memory(root: Path = Path("/")) -> HostMemory:
    """The memory of this machine, or of the part of it that this process may use.

    Args:
        root: where ``proc`` and ``sys`` are mounted.
    """
    memory = _meminfo(root / "proc/meminfo") if sys.platform.startswith("linux") else None
    if memory is None:
        cpu = devices.cpu()
        return HostMemory(cpu.total, cpu.free)
    for limit, used in _control_groups(root):  # all bind: an outer one may have less left, for what else is in it
        total, available = min(memory.total, limit), min(memory.available, max(limit - used, 0))
        if (total, available) != (memory.total, memory.available):
            memory = HostMemory(total, available, "control group")
    return memory


def _meminfo(path: Path) -> HostMemory | None:
    try:
        rows = dict(line.split(":", 1) for line in path.read_text().splitlines())
        total, available = (int(rows[key].split()[0]) * 1024 for key in ("MemTotal", "MemAvailable"))
        return HostMemory(total, available)
    except (OSError, KeyError, ValueError):
        return None


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, what is used and cannot be dropped) of each control group that this process is in, in bytes."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            names, prefix = ("memory.max", "memory.current"), ""
            mounts = [root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"]
        elif "memory" in controllers.split(","):
            names, prefix = ("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_"
            mounts = [root / "sys/fs/cgroup/memory"]
        else:
            continue
        for mount in mounts:
            # In a container the path may be the host's and lead nowhere; the mount itself is then the container's own.
            group = mount / path.lstrip("/")
            for folder in (group, *group.parents):
                if mount not in (folder, *folder.parents):
                    break
                numbers = _numbers(folder, names)
                if numbers is not None:
                    limit, used = numbers
                    yield limit, used - _droppable(folder / "memory.stat", prefix)


def _numbers(folder: Path, names: tuple[str, str]) -> tuple[int, int] | None:
    """Both numbers; None where there is no such group or no limit ("max")."""
    try:
        limit, used = (int((folder / name).read_text()) for name in names)
    except (OSError, ValueError):
        return None
    return limit, used


def _droppable(path: Path, prefix: str) -> int:
    """The group's page cache."""
    try:
        rows = dict(line.split() for line in path.read_text().splitlines())
        return sum(int(rows[f"{prefix}{key}"]) for key in ("active_file", "inactive_file"))
    except (OSError, KeyError, ValueError):
        return 0
