"""Broken and hostile files: each gives `ImageError` or the right picture; no crash, no other exception, no noise."""

from __future__ import annotations

import hashlib
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cotcli.errors import ImageError
from cotcli.image import ImageLimits, load_image
from tests.image_files import pattern, png, samples, written
from tests.image_kinds import tiff_of

SAMPLES = samples(24, 17)


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Nothing on file descriptors 1 and 2 (libtiff writes there), no Python warning."""
    yield
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def load(data: bytes) -> Image.Image | None:
    """The picture, or None for an `ImageError` that is as errors should be; any other exception fails the test."""
    try:
        return load_image(data, name="hostile.bin").image
    except ImageError as error:
        assert error.exit_code == 3
        assert error.message.startswith("hostile.bin: ")
        assert error.message.isprintable() and error.hint is not None and error.hint.isprintable()
        return None


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_anywhere(name: str) -> None:
    """A file cut at any byte is refused, unless what is cut off is none of the first picture's data."""
    data = SAMPLES[name].data
    whole = np.asarray(load_image(data).image)
    refused = 0
    ends = {*range(64), *range(0, len(data), 3), *range(len(data) - 16, len(data))}
    for end in sorted(ends & set(range(len(data)))):
        picture = load(data[:end])
        if picture is None:
            refused += 1
        else:
            np.testing.assert_array_equal(np.asarray(picture), whole, err_msg=f"cut at {end} of {len(data)}")
    assert refused > 20


@pytest.mark.parametrize("name", SAMPLES)
def test_changed_bytes(name: str) -> None:
    """Any picture may come out of changed bytes, but nothing else may happen."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
    rng = np.random.default_rng(seed)
    for attempt in range(60):
        data = bytearray(SAMPLES[name].data)
        # Half of them in the header, where sizes, offsets and depths are.
        reach = len(data) if attempt % 2 else min(len(data), 160)
        for _ in range(rng.integers(1, 8)):
            data[rng.integers(reach)] = rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))])
        load(bytes(data))


def test_random_bytes() -> None:
    rng = np.random.default_rng(1)
    starts = [b"", *{sample.data[:n] for sample in SAMPLES.values() for n in (4, 12, 32)}]
    for start in starts:
        picture = load(start + rng.bytes(int(rng.integers(1, 400))))
        # After a whole header, random bytes are pixels to an uncompressed format.
        assert picture is None or len(start) > 4


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\0", "not an image"),
        (b"hello, world\n" * 9, "not an image"),
        ("привет\n".encode(), "not an image"),
        (b"%PDF-1.7\n", "is a PDF"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg/>", "is an SVG drawing"),
        (b"\n<!DOCTYPE html><html></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"8BPS\0\1" + bytes(40), "Photoshop"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x18ftypmp42" + bytes(40), "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"PK\3\4" + bytes(40), "ZIP archive"),
        (b"BM", "damaged"),
        (b"\xff\xd8\xff", "damaged"),
        (b"GIF89a", "damaged"),
        (b"P6 3 3 255\n", "truncated"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9", "damaged"),
    ],
)
def test_what_is_no_picture(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says) as caught:
        load_image(data, name="file")
    assert caught.value.hint


def test_black_last_row_is_no_missing_row() -> None:
    """The rows are counted where the last is black; `image_corpus` has pictures where one is missing."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        assert load(written(Image.new(mode, (13, 9)), "PNG")) is not None
    for width, height in [(1, 1), (3, 2), (4, 5), (5, 1), (8, 8), (9, 17)]:
        adam7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
        rgb = pattern(width, height, 3)
        passes = [rgb[top::down, left::across] for left, across, top, down in adam7]
        rows = b"".join(b"\0" + row.tobytes() for part in passes if part.size for row in part)
        picture = load(png(width, height, 8, 2, rows, interlace=1))
        np.testing.assert_array_equal(np.asarray(picture), rgb)
        assert load(png(width, height, 8, 2, rows[:-1], interlace=1)) is None


def test_truncated_tiff_with_jpeg_inside_is_quiet() -> None:
    """libtiff reports to file descriptor 2 by itself; `silence` fails this test if that gets through."""
    data = SAMPLES["tiff jpeg"].data
    assert load(data.replace(b"\xff\xdb", b"\xff\xfe")) is None


@pytest.mark.parametrize("tags", [{}, {"compression": 8}, {"planar": 2}], ids=["plain", "deflate", "planes"])
def test_a_tiff_that_does_not_name_all_its_strips(tags: dict[str, Any]) -> None:
    """Pillow leaves black what the file does not say where it is."""
    rgb = pattern(24, 21, 3)
    parts = [rgb[..., i] for i in range(3)] if "planar" in tags else [rgb[i : i + 7] for i in (0, 7, 14)]
    strips = [zlib.compress(part.tobytes()) if "compression" in tags else part.tobytes() for part in parts]
    rows = 21 if "planar" in tags else 7

    def of(strips: list[bytes]) -> Image.Image | None:
        return load(tiff_of("<", 24, 21, strips, bits=[8] * 3, rows=rows, **tags))

    np.testing.assert_array_equal(np.asarray(of(strips)), rgb)
    assert of(strips[:2]) is None and of(strips[:1]) is None


def test_a_tiff_that_does_not_name_all_its_tiles() -> None:
    rgb = pattern(24, 21, 3)
    padded = np.pad(rgb, ((0, 11), (0, 8), (0, 0)))
    tiles = b"".join(padded[y : y + 16, x : x + 16].tobytes() for y in (0, 16) for x in (0, 16))

    def of(count: int) -> Image.Image | None:
        begin = 8 + 2 + 12 * 10 + 4
        lists = struct.pack("<3H", 8, 8, 8) + struct.pack(f"<{count}I", *(range(300, 300 + count * 768, 768)))
        lists += struct.pack(f"<{count}I", *[768] * count)
        tags = [(256, 4, 1, 24), (257, 4, 1, 21), (258, 3, 3, begin), (259, 4, 1, 1), (262, 4, 1, 2), (277, 4, 1, 3)]
        tags += [(322, 4, 1, 16), (323, 4, 1, 16), (324, 4, count, begin + 6), (325, 4, count, begin + 6 + 4 * count)]
        head = b"II*\0\x08\0\0\0" + struct.pack("<H", 10) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
        return load((head + bytes(4) + lists).ljust(300, b"\0") + tiles)

    np.testing.assert_array_equal(np.asarray(of(4)), rgb)
    assert of(3) is None and of(2) is None


def test_a_tiff_whose_jpeg_strips_are_cut() -> None:
    """libtiff leaves grey what they lack."""
    rgb = np.kron(pattern(8, 16, 3), np.ones((8, 8, 1), np.uint8))
    data = written(Image.fromarray(rgb), "TIFF", compression="jpeg", strip_size=64 * 3 * 32)
    with Image.open(io.BytesIO(data)) as image:
        sizes = image.tag_v2[279]
        assert len(sizes) == 4 and load(data) is not None
    places = [place for place in range(len(data)) if data.startswith(struct.pack("<4H", *sizes), place)]
    assert len(places) == 1
    for size in (sizes[3] // 2, sizes[3] - 20):
        cut = bytearray(data)
        struct.pack_into("<H", cut, places[0] + 6, size)
        assert load(bytes(cut)) is None


def test_notes_get_through_while_a_thread_decodes_tiff(tmp_path: Path) -> None:
    """The command's lines, while another thread keeps file descriptor 2 from libtiff."""
    (tmp_path / "large.tiff").write_bytes(
        written(Image.fromarray(pattern(900, 900, 3)), "TIFF", compression="tiff_lzw")
    )
    code = """
import sys, threading, time
from cotcli.cli.run import note, say
from cotcli.errors import ImageError
from cotcli.image import load_image
begun, done = threading.Event(), threading.Event()
def work():
    while not done.is_set():
        load_image(sys.argv[1])
        begun.set()
thread = threading.Thread(target=work)
thread.start()
begun.wait()
for i in range(40):
    note(str(i))
    say(ImageError(str(i)))
    time.sleep(0.002)
done.set()
thread.join()
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "large.tiff"], capture_output=True, text=True, check=True
    )
    assert run.stderr == "".join(f"cotcli: {i}\n" * 2 for i in range(40))


def test_messages_cannot_write_to_the_terminal() -> None:
    with pytest.raises(ImageError) as caught:
        load_image(b"nothing", name="a\nb\x1b[31m\udc80" + "é" * 500)
    assert caught.value.message.isprintable()
    assert caught.value.message.startswith("a\\nb\\x1b[31m\\udc80é")
    assert len(caught.value.message) < 200


def test_limits_of_bytes_hold_for_files(tmp_path: object) -> None:
    data = SAMPLES["png"].data
    with pytest.raises(ImageError, match="more than"):
        load_image("data:image/png," + "%00" * 2000, limits=ImageLimits(max_bytes=1000))
    assert load(data) is not None
