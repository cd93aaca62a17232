"""Conversions from a hub that end early: full disks, disks that cannot be written, Ctrl-C, SIGKILL at any instant."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.bundled_checkpoint import write_bundled_checkpoint
from benchmarks.hub_server import Hub, Request, Trouble
from benchmarks.pull_kills import REPO as BUNDLED
from benchmarks.pull_kills import pull_killed
from benchmarks.small_checkpoints import TINY, write_checkpoint
from convert import Repository, convert
from cotcli.errors import ResourceError

REPO = "someone/tiny"
NAMES = ["tiny-Q4_K_M.gguf", "tiny-Q4_K_M.json", "tiny-Q4_K_M.mmproj.gguf"]


@pytest.fixture
def serving(hub: Hub, tmp_path: Path) -> Hub:
    """Eight shards of 10.4 MB together."""
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=8))
    hub.folders[REPO] = tmp_path / "tiny"
    return hub


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def content(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in (NAMES[0], NAMES[2])]


def test_a_disk_for_the_result_and_two_shards_is_enough(serving: Hub, small_disk: Path, tmp_path: Path) -> None:
    source = sum(path.stat().st_size for path in serving.folders[REPO].glob("*.safetensors"))
    assert source > 8_000_000
    convert(Repository(REPO), small_disk)
    convert(tmp_path / "tiny", tmp_path / "expected")
    assert listing(small_disk) == NAMES and content(small_disk) == content(tmp_path / "expected")


def test_a_disk_for_one_shard_is_enough_too(serving: Hub, small_disk: Path, tmp_path: Path) -> None:
    """There is no room to fetch the next one meanwhile, so it is not fetched meanwhile."""
    expected = convert(tmp_path / "tiny", tmp_path / "expected")
    shards = [path.stat().st_size for path in serving.folders[REPO].glob("*.safetensors")]
    small = expected.language_bytes + expected.mmproj_bytes + max(shards) + 200_000
    (small_disk / "ballast").write_bytes(bytes(6 * 1024 * 1024 - small))
    convert(Repository(REPO), small_disk, name="tiny")
    assert listing(small_disk) == ["ballast", *NAMES] and content(small_disk) == content(tmp_path / "expected")


def test_too_small_a_disk_is_seen_before_anything_large_is_fetched(serving: Hub, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(3_000_000))
    with pytest.raises(
        ResourceError, match=r"has 3\.\d MB free, the model needs \d\.\d MB, \d\.\d MB of it for one shard"
    ):
        convert(Repository(REPO), small_disk)
    assert serving.fetched == []
    assert "tiny-Q4_K_M.pull" not in listing(small_disk)


def test_a_disk_that_fills_up_meanwhile(serving: Hub, small_disk: Path, tmp_path: Path) -> None:
    def fill(_name: str, done: int, total: int) -> None:
        if done > total // 2:
            with contextlib.suppress(OSError), (small_disk / "ballast").open("ab", buffering=0) as ballast:
                while ballast.write(bytes(65536)):
                    pass

    with pytest.raises(ResourceError, match="no space left in") as caught:
        convert(Repository(REPO), small_disk, progress=fill, threads=1)
    assert caught.value.exit_code == 5 and "it goes on from there" in str(caught.value.hint)
    assert not [name for name in listing(small_disk) if name in NAMES]
    (small_disk / "ballast").unlink()
    fetched = len(serving.fetched)
    convert(Repository(REPO), small_disk)
    assert listing(small_disk) == NAMES
    assert 0 < len(serving.fetched) - fetched < 8, "the shards that were done are not fetched again"
    convert(tmp_path / "tiny", tmp_path / "expected")
    assert content(small_disk) == content(tmp_path / "expected")


def test_a_disk_that_cannot_be_written(serving: Hub, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(ResourceError, match="cannot write to") as caught:
        convert(Repository(REPO), small_disk)
    assert caught.value.exit_code == 5 and "Read-only file system" in caught.value.message
    with pytest.raises(ResourceError, match="cannot make the folder"):
        convert(Repository(REPO), small_disk / "out")
    assert serving.fetched == [] and listing(small_disk) == []


CONVERT = """
import sys
from convert import Repository, convert
convert(Repository("someone/tiny"), sys.argv[1], threads=1)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process is POSIX")
def test_ctrl_c_while_the_server_is_silent(serving: Hub, tmp_path: Path) -> None:
    """A fetch ahead hangs in its own thread; that must not keep the process."""
    asked: list[str] = []

    def silent(request: Request) -> Trouble | None:
        if request.path.startswith("/store/") and not request.headers.get("range", "").startswith("bytes=0-"):
            asked.append(request.file)
            if len(asked) > 2:
                time.sleep(60)
        return None

    serving.trouble = silent
    process = subprocess.Popen([sys.executable, "-c", CONVERT, str(tmp_path / "out")], stderr=subprocess.PIPE)
    while len(asked) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=45)
    assert process.returncode != 0
    serving.trouble = lambda request: None
    fetched = len(serving.fetched)
    convert(Repository(REPO), tmp_path / "out")
    assert len(serving.fetched) - fetched < 8
    convert(tmp_path / "tiny", tmp_path / "expected")
    assert listing(tmp_path / "out") == NAMES and content(tmp_path / "out") == content(tmp_path / "expected")


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_killed_at_random_instants(hub: Hub, tmp_path: Path) -> None:
    """`python -m benchmarks.kills pull --kills 200` does this for longer."""
    write_bundled_checkpoint(tmp_path / "bundled", 6)
    hub.folders[BUNDLED] = tmp_path / "bundled"
    hub.delay = 0.005
    seen = pull_killed(tmp_path, hub, kills=12, seed=0)
    assert (seen.kills, seen.differing) == (12, 0) and seen.finished >= 1
    assert len(seen.phases) > 1, "the kills fell into several phases"
