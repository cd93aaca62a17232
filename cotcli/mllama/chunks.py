"""How much work goes into one graph of the vision side.

A graph cannot be interrupted, and its scratch memory grows with its rows. So matrix work over all rows of an image is
cut into graphs, and Ctrl-C is answered between them.
"""

from __future__ import annotations

from collections.abc import Iterator

CPU_FLOPS = 15e9
"""About a quarter of a second of one modern core."""
DEVICE_FLOPS = 1e11
"""Some milliseconds of a GPU, so that it need not wait for the next graph; a tenth of a second of an integrated one."""
_TILE = 64  # rows: devices compute in tiles of so many, or of a divisor


def split_rows(first: int, end: int, flops_per_row: float, flops: float) -> Iterator[tuple[int, int]]:
    """(first row, rows) of chunks of [first, end) of so many ``flops`` each."""
    size = most_rows(flops_per_row, flops)
    while first < end:
        yield first, min(size, end - first)
        first += size


def most_rows(flops_per_row: float, flops: float) -> int:
    """The rows of a chunk, where there are enough."""
    return max(1, int(flops / flops_per_row) // _TILE) * _TILE
