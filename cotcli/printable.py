"""Texts that others chose, such as names of files, as one line of a message. Knows nothing of what they name."""

from __future__ import annotations

_LONGEST = 120


def printable(text: str) -> str:
    """A text as one short line without control characters.

    File names may hold newlines and escape sequences, and a data: URL may be megabytes long.
    """
    if len(text) > _LONGEST:
        text = f"{text[:80]}…{text[-20:]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
