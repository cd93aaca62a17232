"""Files of more kinds than Pillow writes, made by hand, with the RGB pictures in them.

Knows the formats' specifications and NumPy, nothing of cotcli.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.image_files import Sample, grey_rgb, on_white, pattern, written

Pixels = NDArray[np.uint8]


def more_samples() -> dict[str, Sample]:
    rgb, grey = pattern(31, 18, 3), pattern(31, 18, 1)
    return {**_bmps(rgb, grey), **_tiffs(rgb, grey), **_gifs(rgb), **_pnms(rgb, grey), **_jpegs(), **_heics()}


def smooth(width: int = 40, height: int = 24) -> Pixels:
    """What lossy formats keep."""
    return np.asarray(Image.fromarray(pattern(4, 3, 3)).resize((width, height)))


def _bmps(rgb: Pixels, grey: Pixels) -> dict[str, Sample]:
    height, width = grey.shape
    palette = np.random.default_rng(4).integers(0, 256, (256, 3), np.uint8)
    five = (rgb >> 3).astype(np.uint16)
    six = (rgb[..., 1] >> 2).astype(np.uint16)
    spread5 = (five * 255 // 31).astype(np.uint8)
    rgb565 = spread5.copy()
    rgb565[..., 1] = six * 255 // 63
    made = {}
    for bits in (1, 4, 8):
        index = (grey >> (8 - bits)).astype(np.uint8)
        unpacked = ((index[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(height, -1).astype(np.uint8)
        packed = np.packbits(unpacked, axis=1)
        for core in (False, True):
            name = f"bmp {bits}-bit palette{' OS/2' * core}"
            made[name] = Sample(_bmp(width, height, bits, packed, palette[: 1 << bits], core=core), palette[index])
    words = (five[..., 0] << 10 | five[..., 1] << 5 | five[..., 2]).astype("<u2").view(np.uint8)
    made["bmp 16-bit"] = Sample(_bmp(width, height, 16, words), spread5)
    words = (five[..., 0] << 11 | six << 5 | five[..., 2]).astype("<u2").view(np.uint8)
    made["bmp 16-bit fields"] = Sample(_bmp(width, height, 16, words, masks=(0xF800, 0x7E0, 0x1F)), rgb565)
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    bgrx = np.dstack([bgr, np.full_like(grey, 7)]).reshape(height, -1)
    made["bmp 24-bit"] = Sample(_bmp(width, height, 24, bgr.reshape(height, -1)), rgb)
    made["bmp 24-bit from the top"] = Sample(_bmp(width, height, 24, bgr.reshape(height, -1), top_down=True), rgb)
    made["bmp 32-bit"] = Sample(_bmp(width, height, 32, bgrx), rgb)
    return made


def _bmp(
    width: int,
    height: int,
    bits: int,
    rows: Pixels,
    palette: Pixels | None = None,
    *,
    core: bool = False,
    masks: tuple[int, ...] = (),
    top_down: bool = False,
) -> bytes:
    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))
    body = (padded if top_down else padded[::-1]).tobytes()
    colors = b"" if palette is None else b"".join(bytes(c[::-1]) + b"\0" * (not core) for c in palette.tolist())
    if core:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        signed = -height if top_down else height
        info = struct.pack("<IiiHHIIiiII", 40, width, signed, 1, bits, 3 if masks else 0, len(body), 2835, 2835, 0, 0)
        info += struct.pack(f"<{len(masks)}I", *masks)
    offset = 14 + len(info) + len(colors)
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + info + colors + body


def _tiffs(rgb: Pixels, grey: Pixels) -> dict[str, Sample]:
    height, width = grey.shape
    palette = np.random.default_rng(5).integers(0, 256, (256, 3), np.uint8)
    colormap = [int(v) * 257 for v in palette.T.ravel()]
    bits = np.packbits(grey > 127, axis=1)
    bilevel = grey_rgb((grey > 127).astype(np.uint8) * 255)
    rgba = np.dstack([rgb, 255 - grey])
    clear = np.floor(on_white(rgba) + 0.5).astype(np.uint8)
    planes = [rgb[..., i].tobytes() for i in range(3)]
    kinds: list[tuple[str, Pixels, list[bytes], dict[str, Any]]] = [
        ("bilevel", bilevel, [bits.tobytes()], {"bits": [1], "photometric": 1}),
        ("bilevel white is 0", 255 - bilevel, [bits.tobytes()], {"bits": [1], "photometric": 0}),
        ("grey", grey_rgb(grey), [grey.tobytes()], {"photometric": 1}),
        ("grey white is 0", 255 - grey_rgb(grey), [grey.tobytes()], {"photometric": 0}),
        ("palette", palette[grey], [grey.tobytes()], {"photometric": 3, "colormap": colormap}),
        ("rgb", rgb, [rgb.tobytes()], {"bits": [8] * 3}),
        ("rgb a row a strip", rgb, [row.tobytes() for row in rgb], {"bits": [8] * 3, "rows": 1}),
        ("rgb 7 rows a strip", rgb, [rgb[i : i + 7].tobytes() for i in (0, 7, 14)], {"bits": [8] * 3, "rows": 7}),
        ("rgb planes", rgb, planes, {"bits": [8] * 3, "planar": 2}),
        ("rgba", clear, [rgba.tobytes()], {"bits": [8] * 4, "extra": 2}),
        ("deflate", rgb, [zlib.compress(rgb.tobytes())], {"bits": [8] * 3, "compression": 8}),
    ]
    made = {}
    for order in "<>":
        for name, expected, strips, tags in kinds:
            made[f"tiff {order} {name}"] = Sample(
                tiff_of(order, width, height, strips, **tags), expected, "rgba" in name
            )
        for name, values, photometric in (("grey", grey, 1), ("rgb", rgb, 2)):
            deep = (values.astype(np.uint16) * 257).astype(f"{order}u2").tobytes()
            data = tiff_of(order, width, height, [deep], bits=[16] * (photometric * 2 - 1), photometric=photometric)
            made[f"tiff {order} {name} 16-bit"] = Sample(data, rgb if photometric == 2 else grey_rgb(grey))
    return made


def tiff_of(
    order: str,
    width: int,
    height: int,
    strips: list[bytes],
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 2,
    rows: int | None = None,
    planar: int = 1,
    extra: int | None = None,
    compression: int = 1,
    colormap: list[int] | None = None,
) -> bytes:
    """TIFF 6.0: the header, the strips, the directory, and what is too long for its entries."""
    offsets = [8 + sum(map(len, strips[:i])) for i in range(len(strips))]
    tags: list[tuple[int, str, list[int]]] = [
        (256, "H", [width]),
        (257, "H", [height]),
        (258, "H", list(bits)),
        (259, "H", [compression]),
        (262, "H", [photometric]),
        (273, "I", offsets),
        (277, "H", [len(bits)]),
        (278, "H", [rows or height]),
        (279, "I", [len(strip) for strip in strips]),
        (284, "H", [planar]),
    ]
    if colormap:
        tags.append((320, "H", colormap))
    if extra is not None:
        tags.append((338, "H", [extra]))
    body = b"".join(strips)
    body += b"\0" * (len(body) % 2)
    directory = 8 + len(body)
    after = directory + 2 + 12 * len(tags) + 4
    entries, rest = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack(f"{order}{len(values)}{kind}", *values)
        if len(packed) > 4:
            packed, rest = struct.pack(f"{order}I", after + len(rest)), rest + packed
        entries += struct.pack(f"{order}HHI", tag, 3 if kind == "H" else 4, len(values)) + packed.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", directory)
    return start + body + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + rest


def _gifs(rgb: Pixels) -> dict[str, Sample]:
    palette = Image.fromarray(rgb).quantize(40)
    colors = np.asarray(palette.convert("RGB"))
    index = np.asarray(palette)
    see_through = np.where(index[..., None] == 3, np.uint8(255), colors)
    return {
        "gif interlaced": Sample(written(palette, "GIF", interlace=1), colors),
        "gif not interlaced": Sample(written(palette, "GIF", interlace=0), colors),
        "gif transparent": Sample(written(palette, "GIF", transparency=3), see_through),
        "gif two colours": Sample(written(Image.fromarray(rgb[..., 0] > 99), "GIF"), _bilevel(rgb[..., 0] > 99)),
        "gif one pixel": Sample(written(Image.new("L", (1, 1), 77), "GIF"), np.full((1, 1, 3), 77, np.uint8)),
    }


def _bilevel(bits: NDArray[np.bool_]) -> Pixels:
    return grey_rgb(bits.astype(np.uint8) * 255)


def _pnms(rgb: Pixels, grey: Pixels) -> dict[str, Sample]:
    height, width = grey.shape
    size = b"%d %d" % (width, height)

    def text(values: NDArray[np.integer]) -> bytes:
        return b"\n".join(b" ".join(b"%d" % value for value in row) for row in values.reshape(height, -1).tolist())

    bits = grey > 127
    some = grey % 101
    scaled = np.floor(some.astype(int) * 255 / 100 + 0.5).astype(np.uint8)
    return {
        "pbm text": Sample(b"P1\n" + size + b"\n" + text((~bits).astype(np.uint8)), _bilevel(bits)),
        "pgm text": Sample(b"P2\n" + size + b"\n255\n" + text(grey), grey_rgb(grey)),
        "ppm text": Sample(b"P3\n" + size + b"\n255\n" + text(rgb), rgb),
        "pbm bits": Sample(b"P4 " + size + b"\n" + np.packbits(~bits, axis=1).tobytes(), _bilevel(bits)),
        "pgm comments": Sample(b"P5\n# a\n" + size + b"\n#b\n255\n" + grey.tobytes(), grey_rgb(grey)),
        "pgm to 100": Sample(b"P5 " + size + b" 100\n" + some.tobytes(), grey_rgb(scaled), 1),
        "ppm one line": Sample(b"P6 " + size + b" 255\n" + rgb.tobytes(), rgb),
        "ppm 16-bit": Sample(b"P6 " + size + b" 65535\n" + (rgb.astype(">u2") * 257).tobytes(), rgb),
    }


def _jpegs() -> dict[str, Sample]:
    rgb = smooth()
    picture = Image.fromarray(rgb)
    made = {}
    for sampling in (0, 1, 2):
        for progressive in (False, True):
            options = {"quality": 95, "subsampling": sampling, "progressive": progressive}
            name = f"jpeg 4:{('4:4', '2:2', '2:0')[sampling]}{' progressive' * progressive}"
            made[name] = Sample(written(picture, "JPEG", **options), rgb, 16)
    restarts = written(picture, "JPEG", quality=95, restart_marker_blocks=1)
    made |= {
        "jpeg restarts": Sample(restarts, rgb, 16),
        "jpeg optimized": Sample(written(picture, "JPEG", quality=95, optimize=True), rgb, 16),
        "jpeg rgb": Sample(written(picture, "JPEG", quality=95, keep_rgb=True, subsampling=0), rgb, 12),
        "jpeg cmyk progressive": Sample(
            written(picture.convert("CMYK"), "JPEG", quality=95, progressive=True), rgb, 16
        ),
        "jpeg fill bytes": Sample(restarts.replace(b"\xff\xda", b"\xff\xff\xff\xda"), rgb, 16),
        "jpeg comment": Sample(restarts[:2] + b"\xff\xfe\0\x08words!" + restarts[2:], rgb, 16),
        "jpeg more after the end": Sample(restarts + b"more" * 99, rgb, 16),
        "jpeg grey 128": Sample(written(Image.new("L", (33, 9), 128), "JPEG"), np.full((9, 33, 3), 128, np.uint8)),
        "jpeg grey 128 progressive": Sample(
            written(Image.new("RGB", (33, 9), (128,) * 3), "JPEG", progressive=True), np.full((9, 33, 3), 128, np.uint8)
        ),
    }
    for side in (1, 7, 8, 9, 16, 17):
        shape = smooth(side, side)
        made[f"jpeg {side}x{side}"] = Sample(
            written(Image.fromarray(shape), "JPEG", quality=100, subsampling=0), shape, 8
        )
    return made


def _heics() -> dict[str, Sample]:
    """No files where the extra is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return {}
    pillow_heif.register_heif_opener(thumbnails=False)
    rgb = smooth()
    picture = Image.fromarray(rgb)
    half = np.dstack([rgb, np.full(rgb.shape[:2], 128, np.uint8)])
    clear = np.floor(on_white(half) + 0.5).astype(np.uint8)
    exact = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
    return {
        "heic": Sample(written(picture, "HEIF", quality=95), rgb, 16),
        "heic lossless": Sample(written(picture, "HEIF", **exact), rgb),
        "heic alpha": Sample(written(Image.fromarray(half), "HEIF", quality=95), clear, 16),
        "heic several": Sample(written(picture, "HEIF", Image.fromarray(rgb[::-1].copy()), **exact), rgb),
    }
