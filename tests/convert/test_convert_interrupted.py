"""Conversions that end early: killed, interrupted, out of disk. Real processes, real limits, nothing half-written."""

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

from benchmarks.small_checkpoints import TINY, write_checkpoint
from convert import convert
from cotcli.errors import ResourceError

NAMES = ["tiny-Q4_K_M.gguf", "tiny-Q4_K_M.json", "tiny-Q4_K_M.mmproj.gguf"]
# Converts argv[1] into argv[2]; tells when half of the data is written, then works on slowly.
SLOW = """
import sys, time
from convert import convert
told = False
def progress(name: str, done, total):
    global told
    if done > total // 2:
        if not told:
            print("half", flush=True)
        told = True
        time.sleep(0.5)
convert(sys.argv[1], sys.argv[2], "q4_k_m", progress=progress, threads=1)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "tiny", TINY)
    return tmp_path / "tiny"


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SLOW, str(source), str(out)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_killed_conversion_leaves_no_model_and_the_next_run_cleans_up(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(source, out)
    process.kill()
    process.wait()
    assert {name for name in listing(out) if name.endswith(".gguf")} == set()
    assert {"tiny-Q4_K_M.gguf.part", "tiny-Q4_K_M.mmproj.gguf.part"} <= set(listing(out))
    # Another type of the same model: its leftovers have another name, and go all the same.
    convert(source, out, "q8_0")
    assert listing(out) == ["tiny-Q8_0.gguf", "tiny-Q8_0.json", "tiny-Q8_0.mmproj.gguf"]
    again, untouched = convert(source, out), convert(source, tmp_path / "fresh")
    assert again.language.read_bytes() == untouched.language.read_bytes()
    assert again.mmproj.read_bytes() == untouched.mmproj.read_bytes()
    assert listing(tmp_path / "fresh") == NAMES


def test_killed_conversion_leaves_the_former_model_whole(source: Path, tmp_path: Path) -> None:
    before = convert(source, tmp_path / "out")
    content = before.language.read_bytes(), before.mmproj.read_bytes()
    process = start(source, tmp_path / "out")
    process.kill()
    process.wait()
    assert (before.language.read_bytes(), before.mmproj.read_bytes()) == content


KILLED_BETWEEN = """
import os, sys
from convert import convert
rename = os.replace
def once(source, target):
    rename(source, target)
    os._exit(9)
os.replace = once
convert(sys.argv[1], sys.argv[2], name="tiny", threads=1)
"""


def test_killed_between_the_two_renames_leaves_no_mixed_pair(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    former = convert(source, out)
    write_checkpoint(tmp_path / "other", replace(TINY, hidden_size=TINY.hidden_size * 2))
    done = subprocess.run([sys.executable, "-c", KILLED_BETWEEN, str(tmp_path / "other"), str(out)])
    assert done.returncode == 9
    assert not former.language.exists(), "the mmproj file beside it is another model's"
    again, fresh = convert(source, out), convert(source, tmp_path / "fresh")
    assert again.language.read_bytes() == fresh.language.read_bytes()
    assert again.mmproj.read_bytes() == fresh.mmproj.read_bytes()
    assert listing(out) == NAMES


def test_a_second_conversion_to_the_same_files_is_refused(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path / "out")
    with pytest.raises(ResourceError, match="another process is writing"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", "q8_0")  # other files: its cleaning must leave the running one alone
    assert process.wait(timeout=300) == 0
    fresh = convert(source, tmp_path / "fresh")
    assert (tmp_path / "out" / NAMES[0]).read_bytes() == fresh.language.read_bytes()
    assert len(listing(tmp_path / "out")) == 6


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process is POSIX")
def test_ctrl_c_removes_the_parts(source: Path, tmp_path: Path) -> None:
    process = start(source, tmp_path / "out")
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert time.monotonic() - started < 5
    assert process.returncode != 0
    assert listing(tmp_path / "out") == []


LIMITED = """
import resource, sys
from convert import convert
from cotcli.errors import CotcliError
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    convert(sys.argv[1], sys.argv[2])
except CotcliError as error:
    print(error.exit_code, error.message)
"""


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("limit", [2_000, 600_000], ids=["in the header", "in the data"])
def test_a_file_size_limit_counts_as_a_full_disk(limit: int, source: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED, str(source), str(tmp_path / "out"), str(limit)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("5 no space left in"), result
    assert listing(tmp_path / "out") == []


def test_too_small_a_disk_is_seen_before_writing(source: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(5_000_000))
    calls: list[str] = []
    with pytest.raises(ResourceError, match=r"has \d\.\d MB free, the model needs 2\.5 MB"):
        convert(source, small_disk, progress=lambda *call: calls.append(call[0]))
    assert calls == []
    assert listing(small_disk) == ["ballast"]


def test_a_disk_that_fills_up_meanwhile(source: Path, small_disk: Path) -> None:
    def fill(_name: str, _done: int, _total: int) -> None:
        with contextlib.suppress(OSError), (small_disk / "ballast").open("ab", buffering=0) as ballast:
            while ballast.write(bytes(65536)):
                pass

    with pytest.raises(ResourceError, match="no space left in") as caught:
        convert(source, small_disk, progress=fill, threads=1)
    assert caught.value.hint is not None and "--out" in caught.value.hint
    assert listing(small_disk) == ["ballast"]


def test_a_folder_that_cannot_be_made(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ResourceError, match="cannot make the folder"):
        convert(source, tmp_path / "file" / "out")
