"""Whether a PNG file's data is as it was written, and holds all the rows that the header promises.

Pillow does not ask: it passes over the checksums of the picture's data, and a data stream that ends early, but
properly, leaves the rest of its picture black. Knows chunks and row lengths (PNG specification, 5.3 and 8.2), nothing
of pixels.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

_SAMPLES_A_PIXEL = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
# Adam7: first column and step, first row and step of each pass.
_PASSES = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
_SLICE = 1 << 14  # deflate expands a thousandfold at most: 16 MiB at a time


def is_interlaced(data: bytes) -> bool:
    return data[28] != 0


def has_damaged_data(data: bytes) -> bool:
    """Whether a chunk of the picture's data differs from its checksum; one that the file's end cuts off does not."""
    view = memoryview(data)
    for position, length in _image_data(data):
        checksum = data[position + length : position + length + 4]
        if len(checksum) == 4 and zlib.crc32(view[position - 4 : position + length]) != int.from_bytes(checksum, "big"):
            return True
    return False


def has_all_rows(data: bytes) -> bool:
    """Inflates the IDAT chunks of a PNG file that Pillow has decoded, and counts.

    Raises:
        zlib.error: the data cannot be inflated.
    """
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    bits = depth * _SAMPLES_A_PIXEL[colour]
    passes = _PASSES if is_interlaced(data) else ((0, 1, 0, 1),)
    missing = 0
    for left, across, top, down in passes:
        columns, rows = (width - left + across - 1) // across, (height - top + down - 1) // down
        if columns > 0:
            missing += max(0, rows) * (1 + (columns * bits + 7) // 8)
    inflate = zlib.decompressobj()
    for position, length in _image_data(data):
        for start in range(position, position + length, _SLICE):
            missing -= len(inflate.decompress(data[start : min(start + _SLICE, position + length)]))
            if missing <= 0:
                return True
    return False


def _image_data(data: bytes) -> Iterator[tuple[int, int]]:
    """First byte and length of the data of each IDAT chunk."""
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"IDAT":
            yield position + 8, length
        if kind == b"IEND":
            return
        position += length + 12
