"""Whether a JPEG file's compressed data holds the whole picture.

libjpeg does not fail where data is missing but the file goes on, as when somebody has closed a torn file with an end
marker: it warns, which Pillow does not pass on, and leaves grey what it lacks. So libjpeg itself is asked: more data is
added where each scan ends. A scan that was whole is done by then and passes over it; one that was not decodes it, and
the picture changes. Knows markers (ITU-T T.81, annex B), nothing of pixels.
"""

from __future__ import annotations

import re

# The end of a scan's data: a marker other than a restart's, with any fill bytes before it. FF 00 is data.
_SCAN_END = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_HUFFMAN = (0xC0, 0xC1, 0xC2)  # frames; what ends an arithmetic coder's data may be left out by right
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_NOISE = bytes((i * 73 + 41) % 251 for i in range(48))
# A decoder that waits for a restart skips all data before the right one.
_MORE = b"".join(_NOISE + bytes((0xFF, 0xD0 + i)) for i in range(8)) + _NOISE


def with_more_data(data: bytes) -> bytes | None:
    """The first picture of a JPEG file with data added to the end of each scan; None for one that is not Huffman-coded.

    Decodes to the same pixels exactly if nothing is missing.
    """
    parts, done, position = [], 0, 0
    while position + 4 <= len(data):
        marker = data[position + 1]
        if data[position] != 0xFF or marker == _EOI:
            break
        if marker == 0xFF or marker in _ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (*_HUFFMAN, 0xC4, 0xC8, 0xCC):
            return None
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == _SOS:
            end = _SCAN_END.search(data, position)
            if end is None:
                break
            position = end.start()
            parts += [data[done:position], _MORE]
            done = position
    return b"".join([*parts, b"\xff\xd9"])
