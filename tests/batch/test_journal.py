"""The file of records: cut at every byte, refused where it is something else, brought into order."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cotcli.batch.journal import Journal, read_entries, to_line
from cotcli.errors import ResourceError, UsageError
from tests.batch.records import bad, good
from tests.failing_disk import fail_folder_sync

RECORDS = [good("a.png"), bad("b.png"), good("c.png", "<CONCLUSION>ü\u2028</CONCLUSION>")]
LINES = [to_line(record) for record in RECORDS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def fill(path: Path, *ids: int) -> None:
    with Journal(path) as journal:
        journal.begin()
        for index in ids:
            journal.append(RECORDS[index])


def test_records_are_lines(path: Path) -> None:
    fill(path, 0, 1)
    fill(path, 2)
    assert path.read_bytes() == b"".join(LINES)
    assert [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]] == RECORDS
    with Journal(path) as journal:
        assert [(id, entry.ok) for id, entry in journal.entries.items()] == [
            ("a.png", True),
            ("b.png", False),
            ("c.png", True),
        ]
        assert list(journal.records()) == RECORDS
    assert os.listdir(path.parent) == ["out.jsonl"], "neither lock nor part is left"


def test_a_file_cut_anywhere_goes_on_from_its_whole_lines(path: Path) -> None:
    whole = b"".join(LINES)
    ends = [0, len(LINES[0]), len(LINES[0]) + len(LINES[1]), len(whole)]
    near_ends = {end + offset for end in ends for offset in range(-20, 21)}
    for size in sorted({*near_ends, *range(0, len(whole), 97)} & {*range(len(whole) + 1)}):
        path.write_bytes(whole[:size])
        count = sum(end <= size for end in ends[1:])
        if size + 1 in ends:  # all of it but the newline
            count += 1
        with Journal(path) as journal:
            assert len(journal.entries) == count, size
            journal.begin()
            for record in RECORDS[count:]:
                journal.append(record)
        assert path.read_bytes() == whole, size
    path.write_bytes(whole[: ends[1] + 40] + bytes(4056))
    fill(path, 1, 2)
    assert path.read_bytes() == whole, "a power cut may leave zeros"


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"my notes\n",
        b"{}\n",
        b"[1]\n",
        b"\n",
        b'{"image": "a.png", "question": "What?"}\n',
        b'{"image": "a.png", "question": "What?"}',
        LINES[0] + b"notes",
        LINES[0] + b"\n" + LINES[1],
        LINES[0][:50] + b"\n" + LINES[1],
        LINES[0] + LINES[1] + LINES[0],
        LINES[0].replace(b'"schema_version": 1', b'"schema_version": 2'),
        LINES[0].replace(b'"id": "a.png"', b'"id": null'),
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
    ],
)
def test_what_is_no_file_of_records_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"out\.jsonl:\d: (is not a record|repeats the id)") as caught:
        Journal(path)
    assert "overwrite=True" in str(caught.value.hint)
    assert path.read_bytes() == content
    assert os.listdir(path.parent) == ["out.jsonl"]
    with Journal(path, fresh=True) as journal:
        assert path.read_bytes() == content, "not before there is something to write"
        journal.begin()
        journal.append(RECORDS[0])
    assert path.read_bytes() == LINES[0]


def test_order_and_removal_keep_lines_as_they_are(path: Path) -> None:
    fill(path, 2, 0, 1)
    path.chmod(0o640)
    with Journal(path) as journal:
        journal.sort(["a.png", "b.png", "c.png", "d.png"])
        assert path.read_bytes() == b"".join(LINES)
        journal.sort(["b.png", "a.png"])
        assert path.read_bytes() == LINES[2] + LINES[1] + LINES[0], "what nobody asks about comes first"
        journal.begin(without=["b.png", "x.png"])
        assert path.read_bytes() == LINES[2] + LINES[0]
        journal.append(RECORDS[1])
        assert list(journal.records()) == [RECORDS[2], RECORDS[0], RECORDS[1]]
    assert path.read_bytes() == LINES[2] + LINES[0] + LINES[1]
    if os.name != "nt":
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    inode = path.stat().st_ino
    with Journal(path) as journal:
        journal.sort(["c.png", "a.png", "b.png"])
        journal.begin()
    assert path.stat().st_ino == inode, "what is in order is not written again"


def test_files_of_the_users_own_beside_it_stay(path: Path) -> None:
    names = ["out.jsonl.lock", "out.jsonl.part"]
    for name in names:
        (path.parent / name).write_text("mine")
    fill(path, 2, 0)
    with Journal(path) as journal:
        journal.sort(["a.png", "c.png"])
    assert path.read_bytes() == LINES[0] + LINES[2]
    assert [(path.parent / name).read_text() for name in names] == ["mine", "mine"]
    assert sorted(os.listdir(path.parent)) == ["out.jsonl", *names]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="RLIMIT_FSIZE is POSIX's")
@pytest.mark.parametrize("fresh", [False, True])
def test_what_has_been_dropped_is_not_to_be_dropped_again(path: Path, fresh: bool) -> None:
    import resource
    import signal

    fill(path, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Journal(path, fresh=fresh) as journal:
        assert not journal.dropped
        journal.begin()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
            with pytest.raises(ResourceError, match="no space left") as caught:
                journal.append(RECORDS[2])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
    how = "start it again without overwrite=True: " if fresh else "start it again: "
    assert how in str(caught.value.hint)
    assert path.read_bytes() == (b"" if fresh else LINES[0])


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_a_link_stays_one(tmp_path: Path, path: Path) -> None:
    (tmp_path / "disk").mkdir()
    os.symlink("disk/real.jsonl", path)
    fill(path, 2, 0)
    with Journal(path) as journal:
        journal.sort(["a.png", "c.png"])
    assert path.is_symlink()
    assert (tmp_path / "disk" / "real.jsonl").read_bytes() == LINES[0] + LINES[2]


def test_a_file_made_for_nothing_is_removed(path: Path) -> None:
    with Journal(path):
        assert path.exists()
    assert os.listdir(path.parent) == []
    path.touch()
    with Journal(path):
        pass
    assert os.listdir(path.parent) == ["out.jsonl"], "it was there before"


HOLDER = """
import sys
from pathlib import Path
from cotcli.batch.journal import Journal
with Journal(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path) -> None:
    fill(path, 0)
    for index, end in enumerate(("kill", "close"), 1):
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert holder.stdin is not None and holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(ResourceError, match=r"another batch is writing .*out\.jsonl"):
            Journal(path)
        assert len(read_entries(path)[0]) == index, "to look does not take the lock"
        if end == "kill":
            holder.kill()
        else:
            holder.stdin.close()
        holder.wait()
        fill(path, index)
    assert path.read_bytes() == b"".join(LINES)


def test_no_place_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder") as caught:
        Journal(tmp_path / "none" / "out.jsonl")
    assert caught.value.hint == f"To make it: mkdir -p {tmp_path / 'none'}"
    with pytest.raises(UsageError, match="is not a file"):
        Journal(tmp_path)
    if os.path.exists("/dev/null"):
        with pytest.raises(UsageError, match="is not a file"):
            Journal(Path("/dev/null"))


def test_a_disk_that_fails_after_a_rewrite_leaves_what_is_known_true(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Journal(path) as journal:
        for id in ("a", "b", "c"):
            journal.append(good(id))
        with monkeypatch.context() as patched:
            fail_folder_sync(patched, errno.EIO)
            with pytest.raises(ResourceError, match="cannot be written"):
                journal.begin(without=["a"])
        journal.append(good("d"))
        assert [record["id"] for record in journal.records()] == ["b", "c", "d"]
    assert list(read_entries(path)[0]) == ["b", "c", "d"]
