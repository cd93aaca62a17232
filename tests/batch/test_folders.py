"""Folders, globs and lists -> items, on real trees of files. Their content does not matter: no picture is opened."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from cotcli.batch import NameFilter, from_list, from_paths
from cotcli.errors import ImageError, UsageError

Q = "How many?"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree of names, and the folder to be in."""
    names = (
        "b.png a.JPG b/c.webp b/a.png b/thumbs/a.png a/z.gif a/notes.txt a/.hidden.png .git/x.png README b.txt/x.tif"
    )
    for name in names.split():
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pics"


def ids(*paths: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[str]:
    return [item.id for item in from_paths(Q, paths, NameFilter(include, exclude))]


ALL = ["a.JPG", "a/z.gif", "b.png", "b.txt/x.tif", "b/a.png", "b/c.webp", "b/thumbs/a.png"]


def test_a_folder_gives_its_pictures_in_the_order_of_their_paths(tree: Path) -> None:
    items = from_paths(Q, ["pics"])
    assert [item.id for item in items] == ALL == sorted(ALL)
    assert [item.source for item in items] == [Path("pics", name) for name in ALL]
    assert {item.question for item in items} == {Q}
    for spelling in ("pics/", "./pics", str(tree), "pics/../pics"):
        assert ids(spelling) == ALL
    os.chdir(tree)
    assert ids(".") == ALL


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (("*.png",), (), ["b.png", "b/a.png", "b/thumbs/a.png"]),
        (("*.txt",), (), ["a/notes.txt"]),
        (("*.jpg", "README"), (), ["README", "a.JPG"]),
        (("b/*",), (), ["b/a.png", "b/c.webp", "b/thumbs/a.png"]),
        (("B/?.PNG",), (), ["b/a.png"]),
        ((), ("thumbs",), [name for name in ALL if "thumbs" not in name]),
        ((), ("thumbs/",), [name for name in ALL if "thumbs" not in name]),
        ((), ("b",), ["a.JPG", "a/z.gif", "b.png", "b.txt/x.tif"]),
        ((), ("b/*.png",), [name for name in ALL if not (name.startswith("b/") and name.endswith("png"))]),
        ((), ("*.png", "*.jpg"), ["a/z.gif", "b.txt/x.tif", "b/c.webp"]),
        (("*.png",), ("a.*",), ["b.png"]),
        (("[ab].png",), ("thumbs",), ["b.png", "b/a.png"]),
    ],
)
def test_include_and_exclude(tree: Path, include: tuple[str, ...], exclude: tuple[str, ...], left: list[str]) -> None:
    assert ids("pics", include=include, exclude=exclude) == left


def test_globs_and_files_keep_their_names(tree: Path) -> None:
    assert ids("pics/b.png", "pics/a.JPG") == ["pics/b.png", "pics/a.JPG"]
    assert ids("pics/*.*") == ["pics/a.JPG", "pics/b.png"]
    assert ids("pics/a/*") == ["pics/a/notes.txt", "pics/a/z.gif"], "a glob means what it says"
    assert ids("pics/**/*.png") == ["pics/b.png", "pics/b/a.png", "pics/b/thumbs/a.png"]
    assert ids("pics/**/*.png", exclude=("thumbs/*", "*/thumbs/*")) == ["pics/b.png", "pics/b/a.png"]
    assert ids("./pics//b.png", "pics/b.png") == ["pics/b.png"], "one picture is asked about once"
    assert ids("https://example.org/a.png", "pics/b.png") == ["https://example.org/a.png", "pics/b.png"]
    assert from_paths(Q, ["https://example.org/a.png"])[0].source == "https://example.org/a.png"
    [url] = ids("data:image/png;base64,iVBORw0KGgo=")
    assert url == f"data:image/png;sha256={hashlib.sha256(bytes.fromhex('89504e470d0a1a0a')).hexdigest()}"
    odd = tree / "a[1]*.png"
    odd.touch()
    assert ids("pics/a[1]*.png") == ["pics/a[1]*.png"], "a name that is there is no pattern"


def test_two_folders_with_the_same_names_are_refused(tree: Path) -> None:
    assert ids("pics/a", "pics/b") == ["z.gif", "a.png", "c.webp", "thumbs/a.png"]
    with pytest.raises(UsageError, match=r"pics/b/thumbs/a\.png has the id of pics/b/a\.png: a\.png") as caught:
        ids("pics/b", "pics/b/thumbs")
    assert "folder that holds both" in str(caught.value.hint)


@pytest.mark.parametrize("path", ["none", "pics/none.png", "pics/none/*.png", "ftp://x/y.png"])
def test_what_is_not_there(tree: Path, path: str) -> None:
    with pytest.raises(ImageError):
        ids("pics", path)


def test_folders_without_pictures(tree: Path) -> None:
    (tree / "empty").mkdir()
    for path, include in (("pics/empty", ()), ("pics", ("*.bmp",)), ("pics/.git", ("*.jpg",))):
        with pytest.raises(ImageError, match="holds no picture"):
            ids(path, include=include)
    assert ids("pics/.git") == ["x.png"], "a hidden folder that is named is meant"
    with pytest.raises(UsageError, match="stdin"):
        ids("-")


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_links_are_followed_and_loops_end(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "far.png").touch()
    os.symlink(tree, tree / "a" / "loop")
    os.symlink(tree / "b", tree / "a" / "again")  # listed as b only, though a comes first
    os.symlink(tmp_path / "elsewhere", tree / "linked")
    os.symlink(tmp_path, tmp_path / "elsewhere" / "up")  # into a folder that holds the whole tree
    os.symlink("self.png", tree / "self.png")
    os.symlink("self", tree / "self")
    os.symlink("nowhere.png", tree / "dangling.png")
    os.symlink(tree / "b.png", tree / "copy.png")
    found = ids("pics")
    assert found == sorted([*ALL, "copy.png", "dangling.png", "linked/deep/far.png", "self.png"])
    os.symlink(tree, tmp_path / "named")
    assert ids("named") == found


@pytest.mark.skipif(os.name == "nt", reason="a pipe in a folder is POSIX")
def test_pipes_are_not_waited_for(tree: Path) -> None:
    os.mkfifo(tree / "pipe.png")
    assert ids("pics") == ALL


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="root may list all")
def test_a_folder_that_cannot_be_listed(tree: Path) -> None:
    (tree / "b").chmod(0)
    try:
        with pytest.raises(ImageError, match=r"pics/b: cannot be listed") as caught:
            ids("pics")
        assert caught.value.hint == "To leave it out: exclude=b"
        assert ids("pics", exclude=("b",)) == ["a.JPG", "a/z.gif", "b.png", "b.txt/x.tif"]
    finally:
        (tree / "b").chmod(0o700)


def test_a_list(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(
        b"\xef\xbb\xbf./pics/b.png\r\n\r\nhttps://example.org/\xc3\xa9.png\nnone.png\npics/b/\n/abs/a*.png"
    )
    items = from_list(Q, str(file))
    assert [item.id for item in items] == [
        "pics/b.png", "https://example.org/é.png", "none.png", "a.png", "c.webp", "thumbs/a.png", "/abs/a*.png",
    ]  # fmt: skip
    assert [item.origin.rpartition(":")[2] for item in items] == ["1", "3", "4", "5", "5", "5", "6"]
    assert [type(item.source) is str for item in items] == [False, True, False, False, False, False, False]
    with pytest.raises(UsageError, match="no-list"):
        from_list(Q, "no-list")


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_list_of_find_print0(tmp_path: Path) -> None:
    names = [b"a\nb.png", b" c .png", b"\xff\xfe.png", b"d\r", "é.png".encode()]
    file = tmp_path / "list"
    file.write_bytes(b"\0".join(names) + b"\0")
    items = from_list(Q, str(file), null=True)
    assert [os.fsencode(item.id) for item in items] == names
    assert [os.fsencode(item.source) for item in items] == names
    with pytest.raises(UsageError, match="NUL") as caught:
        from_list(Q, str(file))
    assert "null=True" in str(caught.value.hint)
