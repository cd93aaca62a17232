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
    """(first row, rows) of chunks of [first, end); but for the last, whole multiples of so many tiles."""
    unit = TILE * tiles
    size = max(1, int(_FLOPS / flops_per_row) // unit) * unit
    for start in range(first, end, size):
        yield start, min(size, end - start)
