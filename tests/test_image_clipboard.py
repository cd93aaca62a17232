"""`clipboard:` on Linux, where Pillow runs wl-paste or xclip: small programs of these names stand on PATH."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cotcli.errors import ImageError
from cotcli.image import ImageLimits, expand_sources, load_image
from tests.cli.process import ROOT
from tests.cli.process import cotcli as command
from tests.image_files import pattern, png, written

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system is asked, not a program")

PNG = written(Image.fromarray(pattern(7, 5, 3)), "PNG")


class Desktop:
    """A session with these programs and no others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()

    def install(self, name: str, data: bytes = b"", *, code: int = 0, says: str = "") -> None:
        """A program that notes its arguments, prints bytes and a message, and ends with a code."""
        content = self.folder / f"{name}.content"
        content.write_bytes(data)
        lines = [
            "#!/bin/sh",
            f'echo "{name} $@" >> {shlex.quote(str(self.folder / "calls"))}',
            f"/bin/cat {shlex.quote(str(content))}",
            f"printf %s {shlex.quote(says)} >&2",
            f"exit {code}",
        ]
        program = self.folder / "bin" / name
        program.write_text("\n".join(lines))
        program.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desktop:
    desktop = Desktop(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    return desktop


def refusal() -> ImageError:
    with pytest.raises(ImageError) as caught:
        load_image("clipboard:")
    assert caught.value.hint
    assert caught.value.message.startswith("clipboard: ")
    return caught.value


def test_a_copied_picture(desktop: Desktop) -> None:
    desktop.install("wl-paste", PNG)
    for source in ("clipboard:", "CLIPBOARD:"):
        loaded = load_image(source)
        np.testing.assert_array_equal(np.asarray(loaded.image), pattern(7, 5, 3))
        assert (loaded.source, loaded.width, loaded.height) == (source, 7, 5)
    assert desktop.calls == ["wl-paste -t image"] * 2
    assert load_image("clipboard:").sha256 == loaded.sha256 != load_image(Image.new("RGB", (7, 5))).sha256


def test_under_x11(desktop: Desktop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY")
    monkeypatch.setenv("DISPLAY", ":0")
    desktop.install("wl-paste", b"not asked")
    desktop.install("xclip", PNG)
    assert load_image("clipboard:").width == 7
    assert desktop.calls == ["xclip -selection clipboard -t image/png -o"]


def test_no_program(desktop: Desktop) -> None:
    error = refusal()
    assert error.message == "clipboard: neither wl-paste nor xclip is there to read it in this session"
    assert error.hint is not None and "wl-clipboard" in error.hint


@pytest.mark.parametrize("says", ["Nothing is copied", "No selection", 'Clipboard content is not available as "image"'])
def test_no_picture(desktop: Desktop, says: str) -> None:
    desktop.install("wl-paste", code=1, says=says)
    assert refusal().message == "clipboard: holds no picture"


def test_no_display(desktop: Desktop) -> None:
    desktop.install("wl-paste", code=1, says="Failed to connect to a Wayland server\nat all")
    assert "cannot be read (wl-paste error: Failed to connect to a Wayland server\\nat all)" in refusal().message


@pytest.mark.parametrize("data", [b"", b"words", PNG[:-30], png(60000, 60000, 8, 2, b"few")])
def test_not_a_whole_picture(desktop: Desktop, data: bytes) -> None:
    desktop.install("wl-paste", data)
    refusal()


def test_limits_hold(desktop: Desktop) -> None:
    desktop.install("wl-paste", PNG)
    with pytest.raises(ImageError, match="clipboard: 7x5 pixels, more than the limit of 34"):
        load_image("clipboard:", limits=ImageLimits(max_pixels=34))


def test_a_file_of_that_name(desktop: Desktop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desktop.folder)
    for name in ("clipboard:", "clipboard:1"):
        Path(name).write_bytes(written(Image.new("RGB", (3, 2)), "PNG"))
    assert expand_sources(["clipboard:", "./clipboard:", "clipboard:1"]) == [
        "clipboard:",
        "./clipboard:",
        "clipboard:1",
    ]
    assert (
        load_image("./clipboard:").width == load_image("clipboard:1").width == load_image(Path("clipboard:")).width == 3
    )
    refusal()


def test_the_command(desktop: Desktop) -> None:
    args = ("ask", "Is there a red circle?", "clipboard:", "--model", "demo", "--threads", 1, "--json")
    env = {"WAYLAND_DISPLAY": "wayland-0"}
    desktop.install("wl-paste", (ROOT / "tests" / "data" / "scene.png").read_bytes())
    record = json.loads(command(*args, env=env).out)
    assert record["ok"] and record["id"] == record["image"]["path"] == "clipboard:"
    (desktop.folder / "bin" / "wl-paste").unlink()
    done = command(*args, env=env)
    assert done.code == 3 and "neither wl-paste nor xclip" in done.err
    assert json.loads(done.out)["error"]["code"] == "image"
