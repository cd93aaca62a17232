"""Hundreds of files of every kind, whole and hostile, through `load_image` and through the command.

Each gives the picture that is in it, compared pixel by pixel with NumPy's, or an `ImageError`; memory stays within what
the picture needs.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

from cotcli.errors import ImageError
from cotcli.image import LoadedImage, decode, load_image
from cotcli.image.jpeg_scans import with_more_data
from cotcli.render.schema import json_schema
from tests.cli.process import COMMAND, environment
from tests.image_corpus import Case, damaged, whole
from tests.image_files import chunk, pattern, png, written
from tests.png_files import GREY, GREY_ALPHA, PALETTE, RGB, RGBA

ASK = ("--model", "demo", "--threads", "1", "--stages", "none", "--choices", "yes,no")


@pytest.fixture(scope="module")
def wholes() -> list[Case]:
    return whole()


@pytest.fixture(scope="module")
def damages() -> list[Case]:
    return damaged()


def outcome(case: Case) -> LoadedImage | ImageError:
    """Any other exception fails the test."""
    try:
        return load_image(case.data, name=case.name)
    except ImageError as error:
        assert error.exit_code == 3 and error.hint, case.name
        assert error.message.startswith(f"{case.name}: ") and error.message.isprintable(), error.message
        return error


def complaint(case: Case) -> str | None:
    """What is wrong with what came of a file."""
    result = outcome(case)
    if isinstance(result, ImageError):
        return f"{result.message}" if case.must == "read" else None
    if case.must == "refuse":
        return f"{case.name}: was read"
    if case.rgb is None:
        return None
    pixels = np.asarray(result.image)
    if pixels.shape != case.rgb.shape:
        return f"{case.name}: {pixels.shape} instead of {case.rgb.shape}"
    worst = int(np.abs(pixels.astype(int) - case.rgb).max())
    return f"{case.name}: {worst} off" if worst > case.tolerance else None


def test_there_are_enough_of_every_kind(wholes: list[Case], damages: list[Case]) -> None:
    assert len(wholes) >= 300 and len(damages) >= 300
    names = [case.name for case in wholes + damages]
    assert len(set(names)) == len(names)
    for words in ("jpeg cmyk", "16-bit", "palette", "alpha", "turned 8", "interlaced", "apng", "gif", "bmp", "tiff >"):
        assert any(words in case.name for case in wholes), words
    assert sum(case.must == "refuse" for case in damages) > 250


def test_whole_files_give_their_pictures(wholes: list[Case], capfd: pytest.CaptureFixture[str]) -> None:
    assert [said for said in map(complaint, wholes) if said] == []
    assert capfd.readouterr() == ("", "")


def test_damaged_files_give_errors(damages: list[Case], capfd: pytest.CaptureFixture[str]) -> None:
    assert [said for said in map(complaint, damages) if said] == []
    assert capfd.readouterr() == ("", "")


def test_bombs_are_refused_by_their_header(damages: list[Case]) -> None:
    bombs = {case.name.removeprefix("bomb "): outcome(case) for case in damages if case.name.startswith("bomb ")}
    said = {name for name, error in bombs.items() if "the limit of 180,000,000" in str(error)}
    assert said == {"png", "png just over", "png all there", "gif", "bmp", "jpeg", "tiff", "ppm", "webp"}


# -- JPEG data that is missing ----------------------------------------------------------------------------------------


def test_more_data_changes_no_whole_jpeg() -> None:
    """Every frame that Pillow can write, at sizes around the 8 and 16 pixels of a block."""
    rng = np.random.default_rng(0)
    for index in range(250):
        width, height = (int(side) for side in rng.integers(1, 50, 2))
        mode = ("RGB", "L", "CMYK")[index % 3]
        noise = rng.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(noise if index % 4 else np.full_like(noise, rng.integers(126, 130))).convert(mode)
        data = written(
            picture,
            "JPEG",
            quality=int(rng.integers(1, 101)),
            progressive=index % 2 > 0,
            optimize=index % 5 > 0,
            subsampling=int(rng.integers(3)),
            restart_marker_blocks=int(rng.integers(4)),
        )
        more = with_more_data(data)
        assert more is not None and len(more) > len(data)
        np.testing.assert_array_equal(pixels_of(more), pixels_of(data))


def pixels_of(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def test_arithmetic_coders_may_leave_out_what_ends_their_data() -> None:
    data = written(Image.fromarray(pattern(20, 20, 3)), "JPEG")
    assert with_more_data(data) is not None
    assert with_more_data(data.replace(b"\xff\xc0", b"\xff\xc9")) is None


# -- memory -----------------------------------------------------------------------------------------------------------


# From a process of its own, which is small: on Linux a child's peak begins with that of whoever started it, and a test
# run with torch in it has a gigabyte.
_MEASURED = """
import os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    print(usage.ru_maxrss, file=file)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run_measured(args: list[str], folder: Path, **streams: IO[bytes]) -> tuple[int, int]:
    """Exit code and peak memory in bytes of a process that works in a folder."""
    measured = [sys.executable, "-S", "-c", _MEASURED, str(folder / "peak"), *args]
    process = subprocess.run(measured, cwd=folder, env=environment(), **streams)  # type: ignore[call-overload]
    return process.returncode, int((folder / "peak").read_text()) * (1 if sys.platform == "darwin" else 1024)


def large_files() -> Iterator[tuple[str, bytes]]:
    """Nine megapixels each, of the modes whose conversion goes through the most copies."""
    side = 3000
    for name, color, depth, samples in (
        ("rgb", RGB, 8, 3),
        ("rgba", RGBA, 8, 4),
        ("rgba 16", RGBA, 16, 4),
        ("grey alpha", GREY_ALPHA, 8, 2),
        ("grey 16", GREY, 16, 1),
        ("palette", PALETTE, 8, 1),
    ):
        extra = chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(9)) if color == PALETTE else b""
        row = b"\0" + bytes(index % 7 for index in range(side * samples * depth // 8))
        yield f"{name}.png", png(side, side, depth, color, row * side, extra=extra)
    for mode in ("I", "F"):
        yield f"{mode}.tiff", written(Image.new(mode, (side, side), -9), "TIFF", compression="tiff_lzw")
    turned = Image.Exif()
    turned[0x0112] = 6
    yield "turned.jpg", written(Image.new("RGB", (side, side), (128,) * 3), "JPEG", exif=turned.tobytes())


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory is measured by POSIX's wait4")
def test_memory_of_decoding(tmp_path: Path) -> None:
    """At most 13 bytes a pixel, and what strips and codecs take."""
    code = "import sys, numpy\nfrom cotcli.image import load_image\nload_image(sys.argv[1])"
    for name, data in large_files():
        (tmp_path / name).write_bytes(data)
        with Image.open(io.BytesIO(data)) as image:
            corner = written(image.crop((0, 0, 8, 8)), "PNG" if name.endswith("png") else "TIFF")
        (tmp_path / "small").write_bytes(corner)
        ended = [run_measured([sys.executable, "-c", code, file], tmp_path) for file in ("small", name)]
        assert [code for code, _ in ended] == [0, 0]
        (_, least), (_, peak) = ended
        assert 4 * 9_000_000 < peak - least < 13 * 9_000_000 + 30_000_000, name


def test_strips_make_no_difference(wholes: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_STRIP", 100)
    assert [said for said in map(complaint, wholes) if said] == []


# -- the command ------------------------------------------------------------------------------------------------------


def write(cases: list[Case], folder: Path) -> list[str]:
    """The files' names."""
    names = []
    for index, case in enumerate(cases):
        names.append(f"{index:04} {re.sub('[^A-Za-z0-9-]+', ' ', case.name)}")
        (folder / names[-1]).write_bytes(case.data)
    return names


def records(args: list[str], folder: Path) -> tuple[int, list[dict[str, Any]], str, int]:
    """Exit code, records, what stderr has, and the process's peak memory in bytes."""
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        code, peak = run_measured([*COMMAND, *args], folder, stdout=out, stderr=err)
    validator = Draft202012Validator({**json_schema(), "anyOf": [{"$ref": "#/$defs/record"}]})
    found = [json.loads(line) for line in (folder / "out").read_text(encoding="utf-8").splitlines()]
    for record in found:
        validator.validate(record)
    return code, found, (folder / "err").read_text(encoding="utf-8"), peak


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="memory is measured by POSIX's wait4")
def test_the_command_answers_or_says_why(wholes: list[Case], damages: list[Case], tmp_path: Path) -> None:
    """All files in one process: each has its record, and what broke one has no effect on the next."""
    cases = wholes + damages
    names = write(cases, tmp_path)
    (tmp_path / "list").write_text("\n".join(names))
    code, found, err, peak = records(["batch", "Is it red?", "--files-from", "list", *ASK], tmp_path)
    assert code == 7
    assert "Traceback" not in err
    by_id = {record["id"]: record for record in found}
    assert sorted(by_id) == names and len(found) == len(names)
    for name, case in zip(names, cases, strict=True):
        record = by_id[name]
        image, error = record["image"], record["error"]
        assert record["ok"] or case.must != "read", record
        assert not record["ok"] or case.must != "refuse", record
        if not record["ok"]:
            assert isinstance(error, dict) and error["code"] == "image" and error["message"] and error["hint"]
            continue
        assert isinstance(image, dict) and record["answer"] in ("yes", "no")
        if case.rgb is not None:
            assert (image["height"], image["width"]) == case.rgb.shape[:2]
    assert peak < 500e6
