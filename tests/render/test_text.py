"""What a terminal must not get from a model, and wrapping that does not depend on how the text came."""

from __future__ import annotations

import random
import textwrap

import pytest
from rich.cells import cell_len

from cotcli.render.text import Wrap, clean


def wrap(text: str, width: int, size: int | None = None) -> str:
    step = size or max(len(text), 1)
    wrapper = Wrap(width)
    pieces = [piece for begin in range(0, len(text), step) for piece in wrapper.feed(text[begin : begin + step])]
    pieces += wrapper.finish()
    assert all(piece == "\n" or "\n" not in piece for piece in pieces)
    return "".join(pieces)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain [bold]text[/bold] *as is*", "plain [bold]text[/bold] *as is*"),
        ("\x1b[31mred\x1b[0m \x1b]0;title\x07", "[31mred[0m ]0;title"),
        ("\x9b31m\x90q\x9c", "31mq"),
        ("a\rb\r\nc\u2028d", "a\nb\nc\nd"),
        ("a\tb", "a    b"),
        ("over\b\b\b\bwrite\x7f\x00", "overwrite"),
        ("\u202eevil\u202c \u2066x\u2069", "evil x"),
        ("数 é 👩\u200d🚀 ", "数 é 👩\u200d🚀 "),
    ],
)
def test_clean(text: str, safe: str) -> None:
    assert clean(text) == safe


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("", 10, ""),
        ("  one two three  ", 9, "one two\nthree"),
        ("one two three", 13, "one two three"),
        ("one two three", 12, "one two\nthree"),
        ("1. a\n2. b\n\n\n\nc\n", 10, "1. a\n2. b\n\nc"),
        ("list:\n  - item one two", 12, "list:\n  - item one\ntwo"),
        ("abcdefghij", 4, "abcd\nefgh\nij"),
        ("ab abcdefghij", 4, "ab\nabcd\nefgh\nij"),
        ("数学は楽しい", 5, "数学\nは楽\nしい"),
        ("ab数学cd", 4, "ab数\n学cd"),
        ("x\x1b[2Jy", 10, "x[2Jy"),
        ("👩\u200d🚀👩\u200d🚀", 4, "👩\u200d🚀👩\u200d🚀"),
    ],
)
def test_wrap(text: str, width: int, lines: str) -> None:
    for size in (None, 1, 3):
        assert wrap(text, width, size) == lines


def test_words_come_as_soon_as_they_are_complete() -> None:
    wrapper = Wrap(20)
    assert list(wrapper.feed("one tw")) == ["one"]
    assert list(wrapper.feed("o thr")) == [" ", "two"]
    assert list(wrapper.finish()) == [" ", "thr"]


@pytest.mark.parametrize("seed", range(10))
def test_wrap_is_textwrap_for_words(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        words = ["".join(rng.choices("abcdé", k=rng.randint(1, 14))) for _ in range(rng.randint(1, 40))]
        width = rng.randint(14, 60)
        expected = "\n".join(textwrap.wrap(" ".join(words), width, break_long_words=False, break_on_hyphens=False))
        assert wrap(" ".join(words), width, rng.randint(1, 30)) == expected


@pytest.mark.parametrize("seed", range(10))
def test_no_line_is_wider_and_no_text_is_lost(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        text = "".join(rng.choices(["a", "bc ", "\n", " ", "数", "é", "e\u0301", "👍", "-" * 30, "\t", "\x1b"], k=60))
        width = rng.randint(2, 40)
        whole = wrap(text, width)
        assert whole == wrap(text, width, 1) == wrap(text, width, rng.randint(2, 9))
        assert max(map(cell_len, whole.split("\n"))) <= width
        assert "".join(whole.split()) == "".join(clean(text).split())
