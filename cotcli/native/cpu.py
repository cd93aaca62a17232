"""How many processors there are to compute on."""

from __future__ import annotations

import os


def available_threads() -> int:
    """Processors this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return os.cpu_count() or 1
