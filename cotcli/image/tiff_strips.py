"""Whether a TIFF file has all the strips, or tiles, that its picture consists of, and those of JPEG data to their end.

Pillow leaves out what the file does not name, and libtiff leaves grey what a torn JPEG strip lacks; neither says so. Of
other compressions libtiff says it, and where data is not compressed Pillow does. Knows tags (TIFF 6.0, sections 3, 15
and 22), nothing of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANAR = 256, 257, 259, 277, 284
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_OLD_JPEG, _JPEG = 6, 7
_SEPARATE = 2
_EOI = b"\xff\xd9"


def has_all_strips(tags: Mapping[int, Any], data: bytes) -> bool:
    """Whether they are all there.

    Args:
        tags: of the first picture, as Pillow's ``tag_v2`` has them.
        data: the file.
    """
    compression = tags.get(_COMPRESSION, 1)
    if compression == _OLD_JPEG:  # one stream, whose strips need not be named
        return True
    width, height = tags[_WIDTH], tags[_HEIGHT]
    if _TILE_OFFSETS in tags:
        offsets, sizes = tags[_TILE_OFFSETS], tags.get(_TILE_BYTES, ())
        needed = -(-width // tags[_TILE_WIDTH]) * -(-height // tags[_TILE_HEIGHT])
    else:
        offsets, sizes = tags[_STRIP_OFFSETS], tags.get(_STRIP_BYTES, ())
        needed = -(-height // tags.get(_ROWS_PER_STRIP, height))
    if tags.get(_PLANAR) == _SEPARATE:
        needed *= tags.get(_SAMPLES, 1)
    if compression != _JPEG:
        return bool(len(offsets) >= needed)
    # A JPEG strip is of so many rows as it says itself, so that there must not be more of them either.
    return bool(len(offsets) == needed == len(sizes)) and all(
        data.rfind(_EOI, offset, offset + size + 2) >= 0 for offset, size in zip(offsets, sizes, strict=True)
    )
