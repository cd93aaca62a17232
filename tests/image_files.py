"""Pictures for the image tests: a closed-form pattern, and files of every kind with what they should decode to.

Knows nothing of cotcli. The pattern is integer arithmetic alone, so that stored golden values hold for any NumPy and
Pillow; the files are written by Pillow at test time, or by hand where Pillow cannot write a kind.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features


def pattern(width: int, height: int, channels: int) -> NDArray[np.uint8]:
    """Ramps, stripes and noise: shape = (height, width, channels), or (height, width) for one channel."""
    y, x, c = np.ogrid[:height, :width, :channels]
    smooth = (x * (3 + c) + y * (5 - c)) // 4 + 64 * ((x // 9 + y // 7) % 2)
    noise = ((x * 7919 + y * 104729 + c * 1299709 + x * y * 31) % 10007) % 61
    values: NDArray[np.uint8] = ((smooth + noise + 40 * c) % 256).astype(np.uint8)
    return values[..., 0] if channels == 1 else values


@dataclass(frozen=True)
class Sample:
    """A file and the RGB picture in it, shape = (height, width, 3)."""

    data: bytes
    rgb: NDArray[np.uint8]
    tolerance: int = 0
    """Greatest difference from ``rgb`` of any value, for lossy formats and rounding."""


def written(image: Image.Image, kind: str, *more: Image.Image, **options: Any) -> bytes:
    """The file of a picture, and of ``more`` frames. Copies, because Pillow leaves one save's settings to the next."""
    file = io.BytesIO()
    if more:
        options |= {"save_all": True, "append_images": [frame.copy() for frame in more]}
    image.copy().save(file, kind, **options)
    return file.getvalue()


def readable(feature: str) -> bool:
    """Whether this Pillow was built with a codec; one it has never heard of is a warning to Pillow."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bool(features.check(feature))


def on_white(rgba: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Alpha compositing by its definition, unrounded."""
    alpha = rgba[..., 3:].astype(np.float64) / 255
    return np.asarray(rgba[..., :3] * alpha + 255 * (1 - alpha))


def grey_rgb(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=-1)


def png(
    width: int, height: int, depth: int, color: int, rows: bytes, *, interlace: int = 0, extra: bytes = b""
) -> bytes:
    """A PNG file from unfiltered rows (each with its leading 0), for kinds and lies that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bmp_rle8(grey: NDArray[np.uint8]) -> bytes:
    """A run-length coded BMP with a grey palette; one run of one pixel each, bottom row first."""
    height, width = grey.shape
    rows = b"".join(b"".join(bytes((1, value)) for value in row.tolist()) + b"\0\0" for row in grey[::-1])
    body = rows + b"\0\1"
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 2835, 2835, 256, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + info + palette + body


def samples(width: int = 45, height: int = 32) -> dict[str, Sample]:
    """Files of every kind that this Pillow reads, by a name that says the kind."""
    rgb, rgba = pattern(width, height, 3), pattern(width, height, 4)
    grey = pattern(width, height, 1)
    smooth = np.asarray(Image.fromarray(rgb[:5, :6]).resize((width, height), Image.Resampling.BICUBIC))
    bits = grey > 127
    picture, alpha, grey_picture = Image.fromarray(rgb), Image.fromarray(rgba), Image.fromarray(grey)
    palette = picture.quantize(33)
    palette_rgb = np.asarray(palette.convert("RGB"))
    turned = Image.fromarray(rgb[::-1].copy())
    clear = on_white(rgba).round().astype(np.uint8)
    # Off the exact multiples, so that byte order and rounding matter: still nearest to `grey` of 0…255.
    deep = np.clip(grey * np.int32(257) + pattern(width, height, 1).T.reshape(height, width) % 201 - 100, 0, 65535)
    deep = deep.astype(np.uint16)
    big = deep.astype(">u2")
    bilevel = Image.fromarray(bits)
    bilevel_rgb = grey_rgb(bits.astype(np.uint8) * 255)
    color_rows = b"".join(b"\0" + row.tobytes() for row in rgb)
    color16_rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in rgb)
    made = {
        "jpeg": Sample(written(Image.fromarray(smooth), "JPEG", quality=95), smooth, 16),
        "jpeg progressive": Sample(written(Image.fromarray(smooth), "JPEG", quality=95, progressive=True), smooth, 16),
        "jpeg grey": Sample(written(grey_picture, "JPEG", quality=100), grey_rgb(grey), 2),
        "jpeg cmyk": Sample(
            written(Image.fromarray(smooth).convert("CMYK"), "JPEG", quality=95, subsampling=0), smooth, 16
        ),
        "mpo": Sample(written(Image.fromarray(smooth), "MPO", turned, quality=95), smooth, 16),
        "png": Sample(written(picture, "PNG"), rgb),
        "png alpha": Sample(written(alpha, "PNG"), clear, 1),
        "png grey": Sample(written(grey_picture, "PNG"), grey_rgb(grey)),
        "png grey alpha": Sample(
            written(Image.merge("LA", (grey_picture, alpha.getchannel("A"))), "PNG"),
            on_white(np.dstack([grey_rgb(grey), rgba[..., 3]])).round().astype(np.uint8),
            1,
        ),
        "png palette": Sample(written(palette, "PNG"), palette_rgb),
        "png palette transparent": Sample(
            written(palette, "PNG", transparency=palette.getpixel((0, 0))),
            np.where(np.asarray(palette)[..., None] == palette.getpixel((0, 0)), np.uint8(255), palette_rgb),
        ),
        "png 1-bit": Sample(written(bilevel, "PNG"), bilevel_rgb),
        "png 16-bit grey": Sample(written(Image.fromarray(deep), "PNG"), grey_rgb(grey)),
        "png 16-bit grey transparent": Sample(
            png(
                width,
                height,
                16,
                0,
                b"".join(b"\0" + row.tobytes() for row in big),
                extra=chunk(b"tRNS", struct.pack(">H", int(deep[0, 0]))),
            ),
            grey_rgb(np.where(deep == deep[0, 0], np.uint8(255), grey)),
        ),
        "png 16-bit rgb": Sample(png(width, height, 16, 2, color16_rows), rgb),
        "png rgb transparent": Sample(
            png(width, height, 8, 2, color_rows, extra=chunk(b"tRNS", struct.pack(">HHH", *rgb[0, 0].tolist()))),
            np.where((rgb == rgb[0, 0]).all(-1, keepdims=True), np.uint8(255), rgb),
        ),
        "apng": Sample(written(picture, "PNG", turned), rgb),
        "gif": Sample(written(palette, "GIF"), palette_rgb),
        "gif animated": Sample(written(palette, "GIF", palette.rotate(180)), palette_rgb),
        "bmp": Sample(written(picture, "BMP"), rgb),
        "bmp palette": Sample(written(palette, "BMP"), palette_rgb),
        "bmp 1-bit": Sample(written(bilevel, "BMP"), bilevel_rgb),
        "bmp rle": Sample(bmp_rle8(grey), grey_rgb(grey)),
        "tiff": Sample(written(picture, "TIFF"), rgb),
        "tiff lzw": Sample(written(picture, "TIFF", compression="tiff_lzw"), rgb),
        "tiff deflate": Sample(written(picture, "TIFF", compression="tiff_deflate"), rgb),
        "tiff jpeg": Sample(written(Image.fromarray(smooth), "TIFF", compression="jpeg", quality=95), smooth, 16),
        "tiff group4": Sample(written(bilevel, "TIFF", compression="group4"), bilevel_rgb),
        "tiff cmyk": Sample(written(picture.convert("CMYK"), "TIFF"), rgb),
        "tiff alpha": Sample(written(alpha, "TIFF"), clear, 1),
        "tiff 16-bit grey": Sample(written(Image.fromarray(deep), "TIFF"), grey_rgb(grey)),
        "tiff 16-bit big-endian": Sample(
            written(Image.frombytes("I;16B", grey.shape[::-1], big.tobytes()), "TIFF"), grey_rgb(grey)
        ),
        "tiff float": Sample(written(Image.fromarray((grey / 255).astype(np.float32)), "TIFF"), grey_rgb(grey)),
        "tiff 32-bit": Sample(written(Image.fromarray(grey.astype(np.int32) * 257), "TIFF"), grey_rgb(grey)),
        "tiff several pages": Sample(written(picture, "TIFF", turned), rgb),
        "ppm": Sample(written(picture, "PPM"), rgb),
        "pgm": Sample(written(grey_picture, "PPM"), grey_rgb(grey)),
        "pbm": Sample(written(bilevel, "PPM"), bilevel_rgb),
        "pgm 16-bit": Sample(b"P5 %d %d 65535\n" % (width, height) + big.tobytes(), grey_rgb(grey)),
    }
    if readable("webp"):
        made |= {
            "webp": Sample(written(Image.fromarray(smooth), "WEBP", quality=95), smooth, 16),
            "webp lossless": Sample(written(picture, "WEBP", lossless=True), rgb),
            "webp alpha": Sample(written(alpha, "WEBP", lossless=True, exact=True), clear, 1),
            "webp animated": Sample(written(picture, "WEBP", turned, lossless=True), rgb),
        }
    if readable("avif"):
        made["avif"] = Sample(written(Image.fromarray(smooth), "AVIF", quality=95), smooth, 16)
    return made
