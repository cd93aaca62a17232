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
_TILE = 64  # rows: devices compute in tiles of so many, or of a divisor; so does ggml's CPU flash attention


def split_rows(first: int, end: int, flops_per_row: float, flops: float) -> Iterator[tuple[int, int]]:
    """(first row, rows) of chunks of [first, end) of about so many ``flops`` each.

    None has fewer rows than a tile, unless there are no more: ggml's CPU code, which RPC servers may run, sums so few
    in F16, and in an order that depends on the number of threads.
    """
    size = _whole_tiles(flops_per_row, flops)
    while first < end:
        count = size if end - first - size >= _TILE else end - first
        yield first, count
        first += count


def most_rows(flops_per_row: float, flops: float) -> int:
    """An upper bound of the rows of a chunk."""
    return _whole_tiles(flops_per_row, flops) + _TILE


def _whole_tiles(flops_per_row: float, flops: float) -> int:
    return max(1, int(flops / flops_per_row) // _TILE) * _TILE
