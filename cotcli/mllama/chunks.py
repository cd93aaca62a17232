"""How much work goes into one graph of the vision side.

A graph cannot be interrupted, and its scratch memory grows with its rows. So matrix work over all rows of an image is
cut into graphs of about a quarter of a second of one modern core, and Ctrl-C is answered between them.
"""

from __future__ import annotations

from collections.abc import Iterator

_FLOPS = 15e9
TILE = 64
"""Rows that ggml's CPU flash attention takes together (``GGML_FA_TILE_Q``): fewer cost it as much, or its slow path."""


def split_rows(first: int, end: int, flops_per_row: float, tiles: int = 1) -> Iterator[tuple[int, int]]:
    """(first row, rows) of chunks of [first, end); but for the last, whole multiples of so many tiles.

    None has fewer rows than a tile, unless there are no more: which rows sum in which way is then the same for all.
    """
    unit = TILE * tiles
    size = max(1, int(_FLOPS / flops_per_row) // unit) * unit
    while first < end:
        count = size if end - first - size >= TILE else end - first
        yield first, count
        first += count


def most_rows(flops_per_row: float, tiles: int) -> int:
    """An upper bound of the rows of a chunk of at most so many tiles."""
    return max(int(_FLOPS / flops_per_row), TILE * tiles) + TILE
