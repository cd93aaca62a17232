"""A model's text made safe for a terminal, and wrapped as it streams. Knows nothing of stages or styles."""

from __future__ import annotations

import re
from collections.abc import Iterator

# C0 and C1 control characters but for newline and tab, and the marks that reorder text (Unicode bidi controls).
_UNSAFE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
_NEWLINES = re.compile("\r\n?|[\u2028\u2029]")
_ZERO_WIDTH_JOINER = "\u200d"
_MOST_BREAKS = 2


def clean(text: str) -> str:
    """The text without what could steer a terminal; line ends become newlines and tabs four spaces.

    A line end of two characters that lies across two calls becomes two newlines.
    """
    return _UNSAFE.sub("", _NEWLINES.sub("\n", text)).replace("\t", "    ")


class Wrap:
    """Breaks streamed text into lines of at most `width` cells, giving out each word as soon as it is complete.

    Leading and trailing blanks are dropped, two line breaks are the most in a row, and a word wider than a line is cut.
    Characters two cells wide may be parted from their neighbours, as in Chinese.
    """

    def __init__(self, width: int) -> None:
        self._width = max(width, 1)
        self._column = 0
        self._word: list[str] = []
        self._word_size = 0
        self._gap = 0
        self._breaks = 0
        self._begun = False

    def feed(self, text: str) -> Iterator[str]:
        """The pieces that can be written now, none across a line break; each break is a piece "\\n" of its own."""
        from rich.cells import cell_len

        for char in clean(text):
            if char in " \n":
                yield from self._end_word()
                if char == "\n":
                    self._breaks, self._gap = self._breaks + 1, 0
                else:
                    self._gap += 1
                continue
            joined = bool(self._word) and self._word[-1] == _ZERO_WIDTH_JOINER
            size = 0 if joined else cell_len(char)
            if size == 2 or (size and self._word_is_wide()):
                yield from self._end_word()
            self._word.append(char)
            self._word_size += size

    def finish(self) -> Iterator[str]:
        """What is left at the end of the text."""
        yield from self._end_word()

    def _word_is_wide(self) -> bool:
        from rich.cells import cell_len

        return bool(self._word) and cell_len(self._word[0]) == 2

    def _end_word(self) -> Iterator[str]:
        if not self._word:
            return
        if self._begun:
            for _ in range(min(self._breaks, _MOST_BREAKS)):
                yield "\n"
                self._column = 0
        else:
            self._gap = 0
        if self._column + self._gap + self._word_size > self._width and self._column:
            yield "\n"
            self._column = self._gap = 0
        gap = min(self._gap, self._width - 1)
        if gap:
            yield " " * gap
            self._column += gap
        yield from self._write_word()
        self._word, self._word_size, self._gap, self._breaks, self._begun = [], 0, 0, 0, True

    def _write_word(self) -> Iterator[str]:
        if self._column + self._word_size <= self._width:
            self._column += self._word_size
            yield "".join(self._word)
            return
        from rich.cells import cell_len

        part: list[str] = []
        for char in self._word:
            size = cell_len(char)
            if self._column + size > self._width and self._column:
                yield "".join(part)
                yield "\n"
                part, self._column = [], 0
            part.append(char)
            self._column += size
        yield "".join(part)
