"""A process that uses an image cache: `python -m tests.image_cache_worker FOLDER ENTRIES ROUNDS SEED`.

Each of ENTRIES keys has states that follow from it, so that whoever finds some can tell whether they are the right
ones. With 0 rounds it writes until it is killed.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotcli.image_cache import ImageCache

ROWS, COLUMNS = 400, 1000
ENTRY_BYTES = 4 * ROWS * COLUMNS + 84  # with the header


def key(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


def states(index: int) -> NDArray[np.float32]:
    return np.random.default_rng(index).standard_normal((ROWS, COLUMNS), np.float32)


def right(cache: ImageCache, index: int) -> bool:
    """Whether the entry is there; wrong states end the process."""
    found = cache.load(key(index))
    if found is not None and not np.array_equal(found, states(index)):
        raise SystemExit(f"{key(index)} is not what was stored")
    return found is not None


def main(folder: str, entries: str, rounds: str, seed: str) -> None:
    """Half of the keys fit in; each that is missing is stored."""
    notes: list[str] = []
    cache = ImageCache(Path(folder), max_bytes=int(entries) // 2 * ENTRY_BYTES, on_note=notes.append)
    rng = np.random.default_rng(int(seed))
    hits = 0
    for _ in range(int(rounds)) if int(rounds) else itertools.count():
        index = int(rng.integers(int(entries)))
        if right(cache, index):
            hits += 1
        elif not cache.store(key(index), states(index)):
            raise SystemExit(f"not stored: {notes}")
    assert not notes, notes
    print(hits)


if __name__ == "__main__":
    main(*sys.argv[1:])
