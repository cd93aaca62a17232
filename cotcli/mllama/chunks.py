"""How much work goes into one graph of the vision side.

A graph cannot be interrupted, and its scratch memory grows with its rows. So matrix work over all rows of an image is
cut into graphs of about a quarter of a second of one modern core, and Ctrl-C is answered between them.
"""

from __future__ import annotations

from collections.abc import Iterator

_FLOPS = 15e9
_MIN_ROWS = 64  # below it ggml's CPU flash attention takes its slow path


def split_rows(first: int, end: int, flops_per_row: float) -> Iterator[tuple[int, int]]:
    """(first row, rows) of even chunks of [first, end)."""
    rows = end - first
    limit = max(_MIN_ROWS, int(_FLOPS / flops_per_row))
    n_chunks = max(1, rows // limit)  # each at least ``limit`` rows, less than twice as many
    for i in range(n_chunks):
        start, stop = first + rows * i // n_chunks, first + rows * (i + 1) // n_chunks
        yield start, stop - start
