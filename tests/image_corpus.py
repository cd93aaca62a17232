"""Some hundreds of picture files, whole, damaged and hostile, each with what must come of it.

Made anew from fixed seeds by each run. Knows nothing of cotcli. `image_files`, `image_kinds` and `png_files` make the
files whose pixels are compared; here is what time, networks and enemies do to files.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.image_files import Sample, chunk, pattern, png, readable, samples, written
from tests.image_kinds import Pixels, more_samples, smooth, tiff_of
from tests.png_files import broken_pngs, pngs


@dataclass(frozen=True)
class Case:
    """A file and what may come of it.

    Attributes:
        rgb: the picture in it, shape = (height, width, 3); None if there is none that anybody could tell.
        tolerance: greatest difference from ``rgb`` of any value.
        must: "read", "refuse", or "either": then a picture that comes of it is ``rgb``, if that is not None.
    """

    name: str
    data: bytes
    rgb: Pixels | None
    tolerance: int
    must: str


def whole() -> list[Case]:
    """Every listed kind. 16-bit colour loses its low bytes, which may be 1 off, and 2 where alpha loses them too."""
    cases = [_read(f"{name}", sample) for name, sample in samples().items()]
    cases += [_read(f"{name} tiny", sample) for name, sample in samples(3, 2).items() if sample.tolerance <= 2]
    for name, data, rgb in pngs():
        cases.append(Case(name, data, rgb, 2 if "rgba 16" in name or "alpha 16" in name else 1, "read"))
    cases += [_read(name, sample) for name, sample in more_samples().items()]
    cases += list(_turned())
    return cases


def _read(name: str, sample: Sample) -> Case:
    return Case(name, sample.data, sample.rgb, sample.tolerance, "read")


def _turned() -> Iterator[Case]:
    """EXIF orientation 1 to 8 (EXIF 2.32, 4.6.4)."""
    upright: list[Callable[[Pixels], Pixels]] = [
        lambda a: a,
        lambda a: a[:, ::-1],
        lambda a: a[::-1, ::-1],
        lambda a: a[::-1],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.rot90(a, -1),
        lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        lambda a: np.rot90(a),
    ]
    rgb = smooth()
    kinds = {"JPEG": {"quality": 95, "subsampling": 0}, "PNG": {}, "TIFF": {}}
    if readable("webp"):
        kinds["WEBP"] = {"lossless": True}
    for kind, options in kinds.items():
        for orientation, turn in enumerate(upright, 1):
            exif = Image.Exif()
            exif[0x0112] = orientation
            data = written(Image.fromarray(rgb), kind, exif=exif.tobytes(), **options)
            expected = np.ascontiguousarray(turn(rgb))
            yield Case(f"{kind} turned {orientation}", data, expected, 12 if kind == "JPEG" else 0, "read")


# -- damage -----------------------------------------------------------------------------------------------------------


def damaged() -> list[Case]:
    """What must not be taken for a picture, or not for another one than was in it."""
    cases = [Case(name, data, None, 0, "refuse") for name, data in (*broken_pngs(), *_bombs(), *_liars(), *_others())]
    cases += [Case(name, data, None, 0, "refuse") for name, data in _closed_jpegs()]
    picture = Image.fromarray(pattern(20, 12, 3))
    data = written(picture, "PNG")
    at = data.index(b"IDAT")
    for length in (2**31 - 1, 2**32 - 1, 9999):
        liar = data[: at - 4] + struct.pack(">I", length) + data[at:]
        cases.append(Case(f"png with {length} bytes of data", liar, np.asarray(picture), 0, "either"))
    for sample_name, sample in samples(40, 28).items():
        for share in (0.02, 0.3, 0.6, 0.9):
            data = sample.data[: max(1, int(len(sample.data) * share))]
            # Of several frames the first may be whole.
            must = "either" if {"mpo", "apng", "animated", "several"} & set(sample_name.split()) else "refuse"
            cases.append(Case(f"{sample_name} cut at {share:.0%}", data, sample.rgb, sample.tolerance, must))
        cases.append(Case(f"{sample_name} less a byte", sample.data[:-1], sample.rgb, sample.tolerance, "either"))
    cases += [Case(name, data, None, 0, "either") for name, data in _random()]
    return cases


def _closed_jpegs() -> Iterator[tuple[str, bytes]]:
    """Torn files with an end marker: libjpeg makes the rest grey and says nothing that Pillow passes on."""
    picture = Image.fromarray(smooth(120, 90))
    kinds: dict[str, dict[str, object]] = {
        "jpeg": {},
        "jpeg 4:4:4": {"subsampling": 0},
        "jpeg restarts": {"restart_marker_rows": 1},
        "jpeg progressive": {"progressive": True},
    }
    files = {name: written(picture, "JPEG", quality=95, **options) for name, options in kinds.items()}
    files["jpeg grey"] = written(picture.convert("L"), "JPEG", quality=95)
    files["jpeg cmyk"] = written(picture.convert("CMYK"), "JPEG", quality=95)
    for name, data in files.items():
        start = data.index(b"\xff\xda")
        for share in (0.1, 0.5, 0.95):
            yield f"{name} closed at {share:.0%}", data[: start + int((len(data) - start) * share)] + b"\xff\xd9"
    at = files["jpeg"].index(b"\xff\xc0")
    height = struct.pack(">H", 4000)
    yield "jpeg with too great a height", files["jpeg"][: at + 5] + height + files["jpeg"][at + 7 :]


def _bombs() -> Iterator[tuple[str, bytes]]:
    """A few bytes that claim or unpack to a great deal."""
    gif = bytearray(written(Image.new("P", (1, 1)), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(written(Image.new("RGB", (1, 1)), "BMP"))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    jpeg = bytearray(written(Image.new("L", (8, 8)), "JPEG"))
    start = jpeg.index(b"\xff\xc0")
    jpeg[start + 5 : start + 9] = struct.pack(">HH", 65000, 65000)
    tiff = io.BytesIO()
    Image.new("1", (20000, 10000)).save(tiff, "TIFF", compression="group4")
    rows = b"".join(b"\0" + row.tobytes() for row in pattern(8, 8, 3))
    zeros = zlib.compressobj(9)
    text = b"".join(zeros.compress(bytes(2**20)) for _ in range(128)) + zeros.flush()
    yield "bomb png", png(30000, 30000, 1, 0, bytes(100))
    yield "bomb png just over", png(180_000_001, 1, 1, 0, bytes(100))
    yield "bomb png all there", png(19000, 9500, 1, 0, bytes((19000 // 8 + 1) * 9500))
    yield "bomb png text", png(8, 8, 8, 2, rows, extra=chunk(b"zTXt", b"Comment\0\0" + text))
    yield "bomb png profile", png(8, 8, 8, 2, rows, extra=chunk(b"iCCP", b"p\0\0" + text))
    yield "bomb gif", bytes(gif)
    yield "bomb bmp", bytes(bmp)
    yield "bomb jpeg", bytes(jpeg)
    yield "bomb tiff", tiff.getvalue()
    yield "bomb ppm", b"P6 60000 60000 255\n"
    yield "bomb webp", b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xffVP8 \0\0\0\0"


def _liars() -> Iterator[tuple[str, bytes]]:
    """Right signatures, with sizes, offsets and counts that do not hold."""
    kinds = samples(24, 17)
    rows = b"".join(b"\0" + row.tobytes() for row in pattern(8, 8, 3))
    jpeg, tiff, gif, bmp = (bytearray(kinds[name].data) for name in ("jpeg", "tiff", "gif", "bmp"))
    jpeg[4:6] = b"\xff\xff"  # APP0 longer than the file
    yield "liar png rows", png(8, 8, 8, 2, rows[:-1])
    yield "liar png height", png(8, 9000, 8, 2, rows)
    yield "liar png width", png(9000, 8, 8, 2, rows)
    yield "liar png interlaced", png(8, 8, 8, 2, rows, interlace=1)
    yield "liar png depth", png(8, 8, 16, 3, rows)
    yield "liar jpeg segment", bytes(jpeg)
    yield "liar jpeg without tables", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xd9"
    yield "liar tiff directory", bytes(tiff[:4]) + struct.pack("<I", 2**32 - 1) + bytes(tiff[8:])
    yield "liar tiff no entries", bytes(tiff[:8]) + b"\0\0" + bytes(tiff[10:])
    yield "liar tiff loop", b"II*\0\x08\0\0\0\0\0\x08\0\0\0" + bytes(40)
    yield "liar tiff strips", tiff_of("<", 500, 500, [b"few bytes"], photometric=1)
    yield "liar tiff bits", tiff_of("<", 5, 5, [bytes(99)], bits=[77], photometric=1)
    yield "liar tiff deflate", tiff_of("<", 5, 5, [b"x" * 99], photometric=1, compression=8)
    yield "liar gif", bytes(gif[:10]) + b"\xff" + bytes(gif[11:40])
    yield "liar gif no pixels", b"GIF89a\0\0\0\0\0\0\0,\0\0\0\0\0\0\0\0\0\2\2D\1\0;"
    yield "liar bmp offset", bytes(bmp[:10]) + struct.pack("<I", 2**31) + bytes(bmp[14:])
    yield "liar bmp", b"BM" + b"\xff" * 60
    yield "liar webp", b"RIFF\xff\xff\xff\xffWEBPVP8 \xff\xff\xff\xff" + bytes(50)
    yield "liar webp lossless", b"RIFF\x10\0\0\0WEBPVP8L\xff\xff\xff\x7f\x2f" + bytes(50)
    yield "liar avif", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + b"\xff" * 60
    yield "liar heic", b"\0\0\0\x1cftypheic\0\0\0\0mif1heicmiaf" + b"\xff" * 60
    yield "liar bigtiff", b"II+\0" + b"\xff" * 60
    yield "liar tiff no pixels", tiff_of("<", 0, 0, [b""], photometric=1)
    yield "liar ppm no rows", b"P6 4 0 255\n"
    yield "liar ppm no columns", b"P6 0 4 255\n"
    yield "liar ppm negative", b"P6 -4 4 255\n" + bytes(99)
    yield "liar ppm without a size", b"P6\n# no more"


def _others() -> Iterator[tuple[str, bytes]]:
    """What is handed to an image program by mistake."""
    files = {
        "empty": b"",
        "one byte": b"\0",
        "text": b"hello, world\n" * 9,
        "html": b"<!DOCTYPE html><html></html>",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "pdf": b"%PDF-1.7\n",
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "psd": b"8BPS\0\1" + bytes(40),
        "zip": b"PK\3\4" + bytes(40),
        "gzip": b"\x1f\x8b\x08" + bytes(40),
        "mp4": b"\0\0\0\x18ftypmp42" + bytes(40),
        "avi": b"RIFF\0\0\0\0AVI LIST",
        "jxl": b"\0\0\0\x0cJXL \r\n\x87\n",
        "jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "ico": b"\0\0\1\0\1\0" + bytes(40),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "zeros": bytes(5000),
        "ones": b"\xff" * 5000,
    }
    yield from ((f"not a picture: {name}", data) for name, data in files.items())


def _random() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(1)
    for index in range(10):
        yield f"random {index}", b"\7" + rng.bytes(int(rng.integers(1, 3000)))
    for name, sample in samples(24, 17).items():
        data = bytearray(sample.data)
        for _ in range(8):
            data[rng.integers(len(data))] = int(rng.integers(256))
        yield f"{name} with 8 bytes changed", bytes(data)
        yield f"{name} then random", sample.data[: len(sample.data) // 3] + rng.bytes(len(sample.data))
