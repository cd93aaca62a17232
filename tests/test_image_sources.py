"""Paths, globs, stdin, data: and file: URLs: real files, real pipes."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cotcli.errors import ImageError
from cotcli.image import ImageLimits, expand_sources, load_image
from tests.image_files import pattern, written

PNG = written(Image.fromarray(pattern(7, 5, 3)), "PNG")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """b.png a.png [1].png sub/c.png sub/deep/d.PNG, in the current directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    for name in ("b.png", "a.png", "[1].png", "sub/c.png", "sub/deep/d.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(PNG)
    return tmp_path


def refusal(source: str | Path | bytes, limits: ImageLimits = ImageLimits()) -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image(source, limits=limits)
    assert caught.value.exit_code == 3
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["b.png", "a.png"], ["b.png", "a.png"]),
        (["*.png"], ["[1].png", "a.png", "b.png"]),
        (["[1].png"], ["[1].png"]),
        (["[ab].png"], ["a.png", "b.png"]),
        (["?.png", "a.png"], ["a.png", "b.png", "a.png"]),
        (["sub/*"], ["sub/c.png"]),
        (["**/*.png"], ["[1].png", "a.png", "b.png", "sub/c.png"]),
        (["sub/**"], ["sub/c.png", "sub/deep/d.PNG"]),
        (["-", "a.png"], ["-", "a.png"]),
        (["https://x.org/*.png?a=[1]", "DATA:,x"], ["https://x.org/*.png?a=[1]", "DATA:,x"]),
        (["file:///gone.png"], ["file:///gone.png"]),
        ([], []),
    ],
)
def test_expansion(folder: Path, args: list[str], expected: list[str]) -> None:
    assert expand_sources(args) == [path.replace("/", os.sep) if "://" not in path else path for path in expected]


@pytest.mark.parametrize(
    ("args", "message", "hint"),
    [
        (["gone.png"], "gone.png: no such file", "ls ."),
        (["sub/gone.png"], "sub/gone.png: no such file", "ls sub"),
        (["sub"], "sub: is a folder", "For all its pictures: sub/*"),
        (["*.jpg"], "*.jpg: no file matches", "ls ."),
        (["sub/x*/*.jpg"], "sub/x*/*.jpg: no file matches", "ls sub"),
        (["sub/dee?"], "sub/dee?: no file matches", "ls sub"),
        (["ftp://x.org/a.png"], "ftp://x.org/a.png: ftp: URLs are not supported", "http"),
        (["-", "-"], "stdin (-) can be read only once", "once"),
        (["a\0b.png"], "a\\x00b.png: no such file", "ls"),
        ([""], ": no such file", "ls ."),
    ],
)
def test_refused_arguments(folder: Path, args: list[str], message: str, hint: str) -> None:
    with pytest.raises(ImageError) as caught:
        expand_sources(args)
    assert caught.value.message == message
    assert caught.value.hint is not None and hint in caught.value.hint


def test_refused_paths(folder: Path) -> None:
    (folder / "empty.png").touch()
    assert refusal("gone.png").message == "gone.png: no such file"
    assert refusal(Path("gone.png")).message == "gone.png: no such file"
    assert refusal("sub").message == "sub: is a folder"
    assert refusal("empty.png").message == "empty.png: empty"
    assert refusal("a\0b").message.startswith("a\\x00b: ")
    assert refusal("x" * 5000).message.startswith("xxx")
    assert refusal("a.png/b.png").message.startswith("a.png/b.png: ")
    assert refusal("").message == ": no such file"
    assert "not supported" in refusal("s3://bucket/a.png").message
    assert "more than" in refusal("a.png", ImageLimits(max_bytes=len(PNG) - 1)).message
    assert load_image("a.png", limits=ImageLimits(max_bytes=len(PNG))).width == 7


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="file modes are POSIX's")
def test_permission_denied(folder: Path) -> None:
    is_root = os.geteuid() == 0  # reads everything, so becomes nobody for a moment
    folder.chmod(0o755)
    (folder / "b.png").chmod(0o600 if is_root else 0)
    if is_root:
        os.seteuid(65534)
    try:
        error = refusal("b.png")
    finally:
        if is_root:
            os.seteuid(0)
    assert error.message == "b.png: permission denied"
    assert error.hint == "Check its owner and mode: ls -l b.png"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_named_pipe_as_in_process_substitution(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with subprocess.Popen([sys.executable, "-c", "open('pipe','wb').write(open('a.png','rb').read())"], cwd=folder):
        assert load_image("pipe").width == 7
    for named in (folder / "pipe", (folder / "pipe").as_uri()):
        with pytest.raises(ImageError, match="pipe: is a pipe or a device"):  # without waiting for who writes it
            load_image(named)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero")
def test_endless_file() -> None:
    assert "more than 1 MiB" in refusal("/dev/zero", ImageLimits(max_bytes=2**20)).message


SHOW = """
from cotcli.image import load_image
from cotcli.errors import ImageError
try:
    loaded = load_image("-")
    print(loaded.source, loaded.width, loaded.height)
except ImageError as error:
    print(error.message, error.hint, sep="|")
"""


@pytest.mark.parametrize(
    ("piped", "printed"),
    [
        (PNG, "- 7 5"),
        (b"", "stdin: empty|Pipe a picture in: cotcli ask QUESTION - < picture.jpg"),
        (PNG[:60], "stdin: truncated, the file ends before the picture does|Copy or download the picture again"),
    ],
)
def test_stdin(piped: bytes, printed: str) -> None:
    run = subprocess.run([sys.executable, "-c", SHOW], input=piped, capture_output=True, check=True)
    assert run.stdout.decode().strip() == printed
    assert run.stderr == b""


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")
def test_stdin_that_is_a_terminal() -> None:
    import pty

    parent, child = pty.openpty()
    try:
        run = subprocess.run([sys.executable, "-c", SHOW], stdin=child, capture_output=True, check=True, timeout=60)
    finally:
        os.close(parent)
        os.close(child)
    assert run.stdout.decode().startswith("stdin: no picture is piped in|")


def test_stdin_that_is_closed() -> None:
    code = "import sys; sys.stdin = None\n" + SHOW
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert run.stdout.decode().startswith("stdin: no picture is piped in|")


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64," + base64.b64encode(PNG).decode(),
        "DATA:image/png;charset=x;BASE64," + base64.b64encode(PNG).decode(),
        "data:;base64," + base64.encodebytes(PNG).decode(),
        "data:;base64," + base64.b64encode(PNG).decode().replace("+", "%2B").replace("=", "%3D"),
        "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
    ],
)
def test_data_url(url: str) -> None:
    loaded = load_image(url)
    kind = url.partition(":")[2].partition(",")[0].partition(";")[0]
    assert loaded.source == f"data:{kind};sha256={hashlib.sha256(PNG).hexdigest()}"
    np.testing.assert_array_equal(np.asarray(loaded.image), pattern(7, 5, 3))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("data:image/png;base64", "not a valid data: URL"),
        ("data:", "not a valid data: URL"),
        ("data:image/png;base64,", "empty"),
        ("data:image/png;base64,@@@@", "not valid base64"),
        ("data:image/png;base64,abc", "not valid base64"),
        ("data:text/html,<html>", "this is text/html, not an image"),
        ("data:image/png,hello", "not an image"),
        ("data:image/png;base64," + base64.b64encode(PNG[:-30]).decode(), "truncated"),
        ("data:image/png;base64," + "A" * 4000, "more than"),
    ],
)
def test_refused_data_url(url: str, says: str) -> None:
    error = refusal(url, ImageLimits(max_bytes=1000))
    assert says in error.message
    assert len(error.message) < 250


def test_file_url(folder: Path) -> None:
    path = folder / "a ü#?.png"
    path.write_bytes(PNG)
    loaded = load_image(path.as_uri())
    assert (loaded.source, loaded.width) == (path.as_uri(), 7)
    assert load_image(path.as_uri().replace("file:///", "file://localhost/")).width == 7
    assert refusal((folder / "gone").as_uri()).message == f"{(folder / 'gone').as_uri()}: no such file"
    assert "is a folder" in refusal(folder.as_uri()).message
    if os.name != "nt":
        assert "names another machine" in refusal("file://elsewhere/a.png").message


def test_a_file_that_looks_like_a_url_or_stdin(folder: Path) -> None:
    if os.name != "nt":
        (folder / "http:x.png").write_bytes(PNG)
        assert load_image(Path("http:x.png")).width == 7
        assert load_image("./http:x.png").width == 7
    (folder / "-").write_bytes(PNG)
    assert load_image(Path("-")).width == 7
    assert load_image("./-").width == 7
