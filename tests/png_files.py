"""PNG files of every kind in the specification, with what they should decode to: after PngSuite, but made here.

Knows the PNG specification (2nd edition) and NumPy, nothing of Pillow or cotcli: colour types, depths, filters, Adam7,
transparency and chunks that a decoder must pass over are all written by hand.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tests.image_files import chunk, on_white

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
KINDS = [
    *((GREY, depth) for depth in (1, 2, 4, 8, 16)),
    *((PALETTE, depth) for depth in (1, 2, 4, 8)),
    *((color, depth) for color in (RGB, GREY_ALPHA, RGBA) for depth in (8, 16)),
]
NAMES = {GREY: "grey", RGB: "rgb", PALETTE: "palette", GREY_ALPHA: "grey alpha", RGBA: "rgba"}
# Adam7: first column and step, first row and step of each pass.
ADAM7 = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))

Samples = NDArray[np.int64]


def samples_of(width: int, height: int, color: int, depth: int, seed: int = 0) -> Samples:
    """Ramps and noise at full depth: shape = (height, width, channels)."""
    rng = np.random.default_rng([seed, width, height, color, depth])
    y, x, c = np.ogrid[:height, :width, : CHANNELS[color]]
    top = (1 << depth) - 1
    ramp = (x * (c + 2) + y * (5 - c)) * top // (7 * (width + height))
    return np.asarray((ramp + rng.integers(0, top // 2 + 2, ramp.shape)) % (top + 1), np.int64)


def palette_of(depth: int) -> NDArray[np.uint8]:
    """shape = (colours, 3), no two alike."""
    return np.random.default_rng(depth).permutation(256 * 3)[: 3 << depth].astype(np.uint8).reshape(-1, 3)


def rgb_of(samples: Samples, color: int, depth: int, transparent: tuple[int, ...] | None = None) -> NDArray[np.uint8]:
    """What the samples mean (12.5: a linear rescaling, to the nearest), on white.

    Args:
        transparent: the tRNS chunk's numbers: a grey, a colour, or the alphas of the first palette entries.
    """
    eight = np.floor(samples * 255 / ((1 << depth) - 1) + 0.5).astype(np.uint8)
    alpha = np.full(samples.shape[:2], 255, np.uint8)
    if color == PALETTE:
        alphas = np.full(1 << depth, 255, np.uint8)
        alphas[: len(transparent or ())] = transparent or ()
        eight, alpha = palette_of(depth)[samples[..., 0]], alphas[samples[..., 0]]
    elif transparent is not None:
        alpha = np.where((samples == transparent).all(-1), np.uint8(0), np.uint8(255))
    elif color in (GREY_ALPHA, RGBA):
        eight, alpha = eight[..., :-1], eight[..., -1]
    colors = np.broadcast_to(eight, (*eight.shape[:2], 3))
    return np.floor(on_white(np.dstack([colors, alpha])) + 0.5).astype(np.uint8)


def png_of(
    samples: Samples,
    color: int,
    depth: int,
    *,
    interlace: bool = False,
    filters: tuple[int, ...] = (0,),
    before: bytes = b"",
    after: bytes = b"",
    level: int = 6,
    parts: int = 1,
) -> bytes:
    """A PNG file.

    Args:
        filters: of the rows in turn, 0 to 4.
        before, after: chunks between PLTE and IDAT, and between IDAT and IEND.
        parts: IDAT chunks that the data is spread over.
    """
    height, width = samples.shape[:2]
    rows = b""
    for left, across, top, down in ADAM7 if interlace else ((0, 1, 0, 1),):
        if samples[top::down, left::across].size:
            rows += _filtered(_packed(samples[top::down, left::across], depth), _unit(color, depth), filters)
    data = zlib.compress(rows, level)
    cuts = np.linspace(0, len(data), parts + 1).astype(int).tolist()
    idat = b"".join(chunk(b"IDAT", data[a:b]) for a, b in itertools.pairwise(cuts))
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace)
    plte = chunk(b"PLTE", palette_of(depth).tobytes()) if color == PALETTE else b""
    return b"".join((SIGNATURE, chunk(b"IHDR", header), plte, before, idat, after, chunk(b"IEND", b"")))


def _unit(color: int, depth: int) -> int:
    """Bytes from a sample to the one that filters compare it with (9.2)."""
    return max(1, CHANNELS[color] * depth // 8)


def _packed(samples: Samples, depth: int) -> NDArray[np.uint8]:
    """Rows of bytes: shape = (height, bytes)."""
    flat = samples.reshape(samples.shape[0], -1)
    if depth == 16:
        return flat.astype(">u2").view(np.uint8)
    bits = (flat[..., None] >> np.arange(depth - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(flat.shape[0], -1).astype(np.uint8), axis=1)


def _filtered(rows: NDArray[np.uint8], unit: int, filters: tuple[int, ...]) -> bytes:
    """Each row with its filter's number before it (9.2 to 9.4)."""
    out = []
    above = np.zeros(rows.shape[1], np.int64)
    for index, row in enumerate(rows.astype(np.int64)):
        kind = filters[index % len(filters)]
        a = np.concatenate([np.zeros(unit, np.int64), row])[: row.size]
        c = np.concatenate([np.zeros(unit, np.int64), above])[: row.size]
        guess = a + above - c
        distances = np.abs(np.stack([guess - a, guess - above, guess - c]))
        paeth = np.choose(distances.argmin(0), [a, above, c])
        predicted = (np.zeros_like(row), a, above, (a + above) // 2, paeth)[kind]
        out.append(bytes((kind,)) + ((row - predicted) % 256).astype(np.uint8).tobytes())
        above = row
    return b"".join(out)


def pngs() -> Iterator[tuple[str, bytes, NDArray[np.uint8]]]:
    """(name, file, RGB) of every kind, whole."""
    for color, depth in KINDS:
        name = f"png {NAMES[color]} {depth}"
        samples = samples_of(37, 29, color, depth)
        rgb = rgb_of(samples, color, depth)
        yield name, png_of(samples, color, depth), rgb
        yield f"{name} interlaced", png_of(samples, color, depth, interlace=True), rgb
        filters = (4, 2, 1, 3, 0)
        yield f"{name} all filters", png_of(samples, color, depth, filters=filters), rgb
        yield f"{name} all filters interlaced", png_of(samples, color, depth, filters=filters, interlace=True), rgb
        if color in (GREY, RGB):
            # Two colours and, of grey, the lightest.
            for row, column in ((3, 4), *np.argwhere(samples[..., 0] == samples[..., 0].max())[:1].tolist(), (20, 9)):
                key = tuple(samples[row, column].tolist())
                data = png_of(samples, color, depth, before=chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)))
                yield f"{name} transparent at {column},{row}", data, rgb_of(samples, color, depth, key)
        if color == PALETTE:
            for alphas in ((0,), (255, 0), tuple(range(0, 256, 256 >> depth)), (128,)):
                data = png_of(samples, color, depth, before=chunk(b"tRNS", bytes(alphas)))
                yield f"{name} alphas {len(alphas)} {alphas[0]}", data, rgb_of(samples, color, depth, alphas)
    for side in (*range(1, 10), *range(32, 41)):
        for interlace in (False, True):
            color, depth = KINDS[side % len(KINDS)]
            samples = samples_of(side, side, color, depth)
            data = png_of(samples, color, depth, interlace=interlace)
            yield f"png {side}x{side}{' interlaced' * interlace}", data, rgb_of(samples, color, depth)
    for width, height in ((1, 40), (40, 1), (2, 3), (3, 2), (5, 1), (1, 5)):
        samples = samples_of(width, height, RGB, 8)
        yield f"png {width}x{height}", png_of(samples, RGB, 8, interlace=True), rgb_of(samples, RGB, 8)
    samples = samples_of(30, 20, RGB, 8)
    rgb = rgb_of(samples, RGB, 8)
    for filter_type in range(5):
        yield f"png filter {filter_type}", png_of(samples, RGB, 8, filters=(filter_type,)), rgb
    for level in (0, 1, 9):
        yield f"png level {level}", png_of(samples, RGB, 8, level=level), rgb
    for parts in (2, 7, 300):
        yield f"png {parts} IDATs", png_of(samples, RGB, 8, parts=parts), rgb
    for name, data in _CHUNKS.items():
        yield f"png {name}", png_of(samples, RGB, 8, before=data), rgb
    yield "png text after", png_of(samples, RGB, 8, after=chunk(b"tEXt", b"Comment\0words")), rgb
    yield "png more after the end", png_of(samples, RGB, 8) + b"more", rgb
    yield "png empty IDATs", png_of(samples, RGB, 8, before=chunk(b"IDAT", b""), after=chunk(b"IDAT", b"")), rgb


_CHUNKS = {
    **{f"gamma {gamma}": chunk(b"gAMA", struct.pack(">I", gamma)) for gamma in (35000, 45455, 100000, 250000)},
    "chromaticities": chunk(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
    "sRGB": chunk(b"sRGB", b"\0"),
    "significant bits": chunk(b"sBIT", b"\5\6\5"),
    "background": chunk(b"bKGD", struct.pack(">3H", 255, 0, 0)),
    "pixel sizes": chunk(b"pHYs", struct.pack(">IIB", 1, 4, 0)),
    "time": chunk(b"tIME", struct.pack(">HBBBBB", 2000, 1, 1, 12, 34, 56)),
    "suggested palette": chunk(b"PLTE", bytes(range(18))),
    "texts": chunk(b"tEXt", b"Title\0a") + chunk(b"zTXt", b"Text\0\0" + zlib.compress(b"b")),
    "international text": chunk(b"iTXt", b"Title\0\0\0de\0Titel\0" + "ä".encode()),
    "unknown chunk": chunk(b"joKe", bytes(1000)),
}


def broken_pngs() -> Iterator[tuple[str, bytes]]:
    """(name, file) of pictures that must be refused."""
    samples = samples_of(32, 32, RGB, 8)
    whole = png_of(samples, RGB, 8)
    header = whole[16:29]

    def with_header(**fields: int) -> bytes:
        names = ("width", "height", "depth", "color", "compression", "filter", "interlace")
        values = dict(zip(names, struct.unpack(">IIBBBBB", header), strict=True)) | fields
        return SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", *(values[name] for name in names))) + whole[33:]

    for position in range(8):
        yield f"png signature byte {position}", whole[:position] + b"?" + whole[position + 1 :]
    yield "png as text", whole.replace(b"\r\n", b"\n")
    yield "png as text of a Mac", whole.replace(b"\n", b"\r")
    for depth in (0, 3, 5, 9, 32, 99):
        yield f"png depth {depth}", with_header(depth=depth)
    for color, depth in ((1, 8), (5, 8), (7, 8), (9, 8), (255, 8), (2, 4), (3, 16), (4, 2), (6, 1)):
        yield f"png colour type {color} depth {depth}", with_header(color=color, depth=depth)
    for fields in ({"filter": 9}, {"width": 0}, {"height": 0}, {"width": 2**31}, {"height": 2**32 - 1}):
        yield f"png {fields}", with_header(**fields)
    yield "png too high", with_header(height=33)
    yield "png too wide", with_header(width=33)
    yield "png not interlaced", with_header(interlace=1)
    yield "png CRC of IHDR", whole[:29] + bytes(4) + whole[33:]
    at = whole.index(b"IDAT")
    length = int.from_bytes(whole[at - 4 : at], "big")
    yield "png CRC of IDAT", whole[: at + 4 + length] + bytes(4) + whole[at + 8 + length :]
    yield "png without IDAT", whole[: at - 4] + chunk(b"IEND", b"")
    yield "png without IHDR", SIGNATURE + whole[33:]
    yield "png without IEND or data", whole[:33]
    yield "png nothing inside", SIGNATURE + chunk(b"IEND", b"")
    yield "png short IHDR", SIGNATURE + chunk(b"IHDR", header[:8]) + whole[33:]
    yield "png without palette", png_of(samples_of(9, 9, PALETTE, 8), PALETTE, 8).replace(b"PLTE", b"PLTF")
    for name, data in (("not zlib", b"words" * 9), ("empty", b""), ("cut", whole[at + 4 : at + 4 + length // 2])):
        yield f"png data {name}", whole[: at - 4] + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    early = zlib.compress(zlib.decompress(whole[at + 4 : at + 4 + length])[:-200])
    yield "png data ends early", whole[: at - 4] + chunk(b"IDAT", early) + chunk(b"IEND", b"")
    yield "png filter 5", _with_filter(samples, 5)
    yield "png filter 255", _with_filter(samples, 255)


def _with_filter(samples: Samples, kind: int) -> bytes:
    rows = b"".join(bytes((kind,)) + row.tobytes() for row in samples.astype(np.uint8))
    header = struct.pack(">IIBBBBB", samples.shape[1], samples.shape[0], 8, RGB, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
