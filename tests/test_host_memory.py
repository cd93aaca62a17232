"""What is free, read from the files of the kernel: the machine's, and control groups of both versions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cotcli.native.host_memory import HostMemory, host_memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="these files are Linux's")
GIB = 2**30
MACHINE = "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n"


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, proc__meminfo=MACHINE)
    return tmp_path


def group(folder: Path, version: int, limit: object, used: int, cache: int) -> None:
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"), 2: ("memory.max", "memory.current", "")}
    limit_name, used_name, prefix = names[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_name).write_text(f"{limit}\n")
    (folder / used_name).write_text(f"{used}\n")
    half = cache // 2
    (folder / "memory.stat").write_text(f"anon 7\n{prefix}active_file {half}\n{prefix}inactive_file {cache - half}\n")


def test_this_machine() -> None:
    memory = host_memory()
    assert 0 < memory.available <= memory.total


def test_without_control_groups(root: Path) -> None:
    assert host_memory(root) == HostMemory(16 * GIB, 8 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_sees_its_own_limit(root: Path, version: int) -> None:
    """In a container the path in /proc is the host's, and the mount is the container's own group."""
    write(root, proc__self__cgroup="0::/docker/abc\n" if version == 2 else "5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    mount = root / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    group(mount, version, 4 * GIB, used=3 * GIB, cache=2 * GIB)
    assert host_memory(root) == HostMemory(4 * GIB, 3 * GIB, "control group")


@pytest.mark.parametrize("version", [1, 2])
def test_the_tightest_of_nested_groups_counts(root: Path, version: int) -> None:
    write(root, proc__self__cgroup="0::/slice/job/step\n" if version == 2 else "4:memory,cpu:/slice/job/step\n")
    mount = root / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    unlimited = "max" if version == 2 else 9223372036854771712
    group(mount / "slice/job/step", version, unlimited, used=GIB, cache=0)
    group(mount / "slice/job", version, 6 * GIB, used=5 * GIB, cache=GIB)
    group(mount / "slice", version, 12 * GIB, used=6 * GIB, cache=0)
    group(mount, version, unlimited, used=9 * GIB, cache=0)
    assert host_memory(root) == HostMemory(6 * GIB, 2 * GIB, "control group")


@pytest.mark.parametrize("version", [1, 2])
def test_a_wider_group_may_have_less_left(root: Path, version: int) -> None:
    """Other jobs of the same slice have used it up."""
    write(root, proc__self__cgroup="0::/slice/job\n" if version == 2 else "4:memory:/slice/job\n")
    mount = root / "sys/fs/cgroup" / ("" if version == 2 else "memory")
    group(mount / "slice/job", version, 6 * GIB, used=GIB, cache=0)
    group(mount / "slice", version, 12 * GIB, used=12 * GIB, cache=GIB)
    assert host_memory(root) == HostMemory(6 * GIB, GIB, "control group")


def test_a_group_without_limit_changes_nothing(root: Path) -> None:
    write(root, proc__self__cgroup="0::/user\n")
    group(root / "sys/fs/cgroup/user", 2, "max", used=GIB, cache=0)
    assert host_memory(root) == HostMemory(16 * GIB, 8 * GIB)


def test_a_group_that_is_over_its_limit_has_nothing_left(root: Path) -> None:
    write(root, proc__self__cgroup="0::/\n")
    group(root / "sys/fs/cgroup", 2, GIB, used=2 * GIB, cache=0)
    assert host_memory(root).available == 0
