"""Files of every kind, every mode and every orientation: what they decode to, against NumPy."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFile

from cotcli.errors import ImageError
from cotcli.image import load_image
from tests.image_files import grey_rgb, pattern, png, readable, samples, written

SAMPLES = samples()
# What undoes each EXIF orientation, on an array of rows.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def decoded(data: bytes | Image.Image) -> NDArray[np.uint8]:
    return np.asarray(load_image(data).image)


def exif(orientation: object) -> bytes:
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def test_every_kind_is_here() -> None:
    kinds = {name.split()[0] for name in SAMPLES}
    assert {"jpeg", "mpo", "png", "apng", "gif", "bmp", "tiff", "ppm", "pgm", "pbm"} <= kinds
    assert ("webp" in kinds) == readable("webp")


@pytest.mark.parametrize("name", SAMPLES)
def test_file_of_each_kind(name: str) -> None:
    sample = SAMPLES[name]
    result = decoded(sample.data)
    assert result.shape == sample.rgb.shape
    difference = np.abs(result.astype(int) - sample.rgb)
    assert difference.max() <= sample.tolerance, f"{difference.max()}, mean {difference.mean():.2f}"


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_orientation(kind: str, orientation: int) -> None:
    if kind in ("WEBP", "AVIF") and not readable(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    rgb = np.asarray(Image.fromarray(pattern(4, 3, 3)).resize((40, 24)))
    lossy = {"quality": 95, "subsampling": "4:4:4"} if kind in ("JPEG", "AVIF") else {}
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = written(Image.fromarray(rgb), kind, exif=exif(orientation), **lossy, **lossless)
    expected = UPRIGHT[orientation](rgb)
    loaded = load_image(data)
    result = np.asarray(loaded.image)
    assert (loaded.height, loaded.width) == expected.shape[:2] == result.shape[:2]
    assert np.abs(result.astype(int) - expected).max() <= (12 if lossy else 0)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_a_pillow_image(orientation: int) -> None:
    image = Image.fromarray(pattern(9, 5, 3))
    image.info["exif"] = exif(orientation)
    np.testing.assert_array_equal(decoded(image), UPRIGHT[orientation](pattern(9, 5, 3)))


@pytest.mark.parametrize(
    "broken", [exif(0), exif(9), exif(65535), b"Exif\0\0", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_senseless_orientation_is_ignored(broken: bytes) -> None:
    data = written(Image.fromarray(pattern(9, 5, 3)), "PNG", exif=broken)
    np.testing.assert_array_equal(decoded(data), pattern(9, 5, 3))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    values = np.array([[0, 1, 128, 129, 255, 256, 257, 32768, 65406, 65407, 65534, 65535]], np.uint16)
    expected = grey_rgb((values / 257).round().astype(np.uint8))
    assert expected[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 1, 128, 254, 255, 255, 255]
    np.testing.assert_array_equal(decoded(written(Image.fromarray(values), "PNG")), expected)
    for mode, order in (("I;16", "<u2"), ("I;16L", "<u2"), ("I;16B", ">u2")):
        image = Image.frombytes(mode, values.shape[::-1], values.astype(order).tobytes())
        np.testing.assert_array_equal(decoded(image), expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 7, 255]], np.int32), [0, 7, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),
        (np.array([[0, 2**20, 2**21]], np.int32), [0, 128, 255]),
        (np.array([[-7, -7]], np.int32), [0, 0]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.5, 100.4, 255]], np.float32), [0, 0, 100, 255]),
        (np.array([[-1, 0, 3]], np.float32), [0, 64, 255]),
        (np.array([[0, np.nan, np.inf, 1]], np.float32), [0, 0, 0, 255]),
        (np.array([[-3e38, 0, 3e38]], np.float32), [0, 128, 255]),
    ],
)
def test_deep_grey(values: NDArray[np.generic], expected: list[int]) -> None:
    for image in (Image.fromarray(values), written(Image.fromarray(values), "TIFF")):
        result = decoded(image)
        np.testing.assert_array_equal(result, grey_rgb(np.array([expected], np.uint8)))


def test_dark_deep_pgm_stays_dark() -> None:
    """Its greatest value is below 256, but the header says 16 bits."""
    assert decoded(b"P5 2 1 65535\n\x00\x00\x00\xff").max() == 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_what_is_transparent_is_white(mode: str) -> None:
    assert (decoded(Image.new(mode, (3, 2))) == 255).all()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "I;16N"]
)
def test_every_mode_of_pillow_is_read(mode: str) -> None:
    assert decoded(Image.new(mode, (3, 2))).shape == (2, 3, 3)


def test_lab_tiff_has_its_colours() -> None:
    """sRGB red is CIELAB (53, 80, 67); Pillow keeps L in 0…255, a and b offset by 128."""
    data = written(Image.new("LAB", (4, 4), (round(53.2 * 2.55), 80 + 128, 67 + 128)), "TIFF")
    assert np.abs(decoded(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 12


def test_first_frame_of_an_animation() -> None:
    """The frames are each other upside down; `test_file_of_each_kind` has compared the first with the picture."""
    for name in ("apng", "gif animated", "mpo", "tiff several pages"):
        assert (SAMPLES[name].rgb != SAMPLES[name].rgb[::-1]).any()
        with Image.open(io.BytesIO(SAMPLES[name].data)) as image:
            assert image.n_frames == 2


def test_interlaced_png() -> None:
    """Adam7 of a 2 x 2 picture: pass 1 has (0,0), pass 6 has (1,0), pass 7 has the second row."""
    rgb = pattern(2, 2, 3)
    rows = b"".join(b"\0" + part.tobytes() for part in (rgb[0, :1], rgb[0, 1:], rgb[1]))
    np.testing.assert_array_equal(decoded(png(2, 2, 8, 2, rows, interlace=1)), rgb)


def test_thumbnail_of_a_camera_raw_file_is_refused() -> None:
    data = written(Image.new("RGB", (16, 12)), "TIFF", tiffinfo={254: 1})
    with pytest.raises(ImageError, match="thumbnail only") as caught:
        load_image(data)
    assert caught.value.hint is not None and "JPEG" in caught.value.hint


def test_settings_of_pillow_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = SAMPLES["jpeg"].data
    with pytest.raises(ImageError, match="truncated"):
        load_image(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


HEIC_HEADER = b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + bytes(400)


def test_heic_without_its_extra_names_the_command(tmp_path: Path) -> None:
    path = tmp_path / "phone.heic"
    path.write_bytes(HEIC_HEADER)
    code = f"""
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
from cotcli.image import load_image
try:
    load_image({str(path)!r})
except Exception as error:
    print(type(error).__name__, error.exit_code, error.message, error.hint, sep="|")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == (
        f'ImageError|3|{path}: is an HEIC picture, which needs an extra|pip install "cotcli[heic]"'
    )
    assert run.stderr == ""


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_heic(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.register_heif_opener()
    rgb = np.asarray(Image.fromarray(pattern(4, 3, 3)).resize((40, 24)))
    data = written(Image.fromarray(rgb), "HEIF", quality=95, exif=exif(orientation))
    result = decoded(data)
    expected = UPRIGHT[orientation](rgb)
    assert result.shape == expected.shape
    assert np.abs(result.astype(int) - expected).mean() <= 8  # any other orientation: 14 at least
    for end in range(0, len(data), 7):
        with pytest.raises(ImageError):
            load_image(data[:end])
