"""Pictures are read in a thread, in order, a few ahead, and each once for requests in a row."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from typing import Any

import pytest

from cotcli.errors import ImageError
from cotcli.lookahead import LookAhead, Request


class Reader:
    """Reads names as pictures, and only once `go` is set in the thread."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.read: list[str] = []

    def __call__(self, image: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            assert self.go.wait(60)
        self.read.append(image)
        if image == "broken":
            raise ImageError("broken: not a picture")
        return f"pixels of {image}"


def names(*images: str | None) -> list[Request]:
    return [Request(image, "?") for image in images]


def pixels(taken: Any) -> Any:
    """What was read, where there was something to take."""
    return taken[1].result()


def until_read(reader: Reader, number: int) -> None:
    deadline = time.monotonic() + 60
    while len(reader.read) < number:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)  # the future is set after the reader returns


def test_the_next_are_read_meanwhile() -> None:
    reader = Reader()
    with closing(LookAhead(names("a", "b", "c", "d"), reader)) as ahead:
        first = ahead.take(wait=True)  # read here, since nothing else is to be done
        assert pixels(first) == "pixels of a" and reader.read == ["a"]
        assert ahead.take(wait=False) is None  # b is not there yet
        reader.go.set()
        until_read(reader, 3)
        assert reader.read == ["a", "b", "c"]  # two ahead and no more
        second = ahead.take(wait=False)
        assert second is not None and second[0].image == "b" and pixels(second) == "pixels of b"
        assert [pixels(ahead.take(wait=True)) for _ in range(2)] == ["pixels of c", "pixels of d"]
        assert ahead.take(wait=True) is None and ahead.take(wait=False) is None


def test_a_picture_asked_about_in_a_row_is_read_once() -> None:
    reader = Reader()
    reader.go.set()
    with closing(LookAhead(names("a", "a", None, None, "a"), reader)) as ahead:
        results = [pixels(taken) for taken in iter(lambda: ahead.take(wait=True), None)]
    assert results == ["pixels of a", "pixels of a", None, None, "pixels of a"]
    assert reader.read == ["a", "a"]


def test_a_broken_picture_is_its_requests_error() -> None:
    reader = Reader()
    reader.go.set()
    with closing(LookAhead(names("broken", "a", "broken"), reader)) as ahead:
        for expected in ("broken", "a", "broken"):
            taken = ahead.take(wait=True)
            assert taken is not None and taken[0].image == expected
            if expected == "broken":
                with pytest.raises(ImageError):
                    taken[1].result()


def test_requests_are_pulled_as_needed() -> None:
    pulled: list[int] = []

    def for_ever() -> Iterator[Request]:
        for number in count():
            pulled.append(number)
            yield Request(str(number), "?")

    reader = Reader()
    reader.go.set()
    with closing(LookAhead(for_ever(), reader)) as ahead:
        assert pulled == []
        for number in range(5):
            assert ahead.take(wait=True) is not None
            assert len(pulled) == number + 3
