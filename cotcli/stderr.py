"""File descriptor 2: who sends it elsewhere for a while keeps our own lines out of there meanwhile.

libtiff writes to it by itself, in whatever thread decodes a picture.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOCK = threading.RLock()
"""Held while file descriptor 2 is not what it was, and by whoever must not write elsewhere."""


@contextmanager
def silenced() -> Iterator[None]:
    """File descriptor 2 to nowhere."""
    with LOCK:
        try:
            saved = os.dup(2)
        except OSError:  # stderr is closed: nothing to keep quiet
            yield
            return
        nowhere = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(nowhere, 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(nowhere)
