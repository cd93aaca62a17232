"""Pictures are read in a thread, in order, a few ahead, and each once for requests in a row."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from queue import Queue
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


def take(ahead: LookAhead, *, wait: bool) -> Any:
    """The next one, as if it were begun at once."""
    taken = ahead.take(wait=wait)
    ahead.look_ahead()
    return taken


def pixels(taken: Any) -> Any:
    """What was read, where there was something to take."""
    return taken[1].result()


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def until_read(reader: Reader, number: int) -> None:
    until(lambda: len(reader.read) >= number)
    time.sleep(0.05)  # the future is set after the reader returns


def test_the_next_are_read_meanwhile() -> None:
    reader = Reader()
    with closing(LookAhead(names("a", "b", "c", "d"), reader)) as ahead:
        first = take(ahead, wait=True)  # read here, since nothing else is to be done
        assert pixels(first) == "pixels of a" and reader.read == ["a"]
        assert take(ahead, wait=False) is None  # b is not there yet
        reader.go.set()
        until_read(reader, 3)
        assert reader.read == ["a", "b", "c"]  # two ahead and no more
        second = take(ahead, wait=False)
        assert second is not None and second[0].image == "b" and pixels(second) == "pixels of b"
        assert [pixels(take(ahead, wait=True)) for _ in range(2)] == ["pixels of c", "pixels of d"]
        assert take(ahead, wait=True) is None and take(ahead, wait=False) is None


def test_a_picture_asked_about_in_a_row_is_read_once() -> None:
    reader = Reader()
    reader.go.set()
    with closing(LookAhead(names("a", "a", None, None, "a"), reader)) as ahead:
        results = [pixels(taken) for taken in iter(lambda: take(ahead, wait=True), None)]
    assert results == ["pixels of a", "pixels of a", None, None, "pixels of a"]
    assert reader.read == ["a", "a"]


def test_a_broken_picture_is_its_requests_error() -> None:
    reader = Reader()
    reader.go.set()
    with closing(LookAhead(names("broken", "a", "broken"), reader)) as ahead:
        for expected in ("broken", "a", "broken"):
            taken = take(ahead, wait=True)
            assert taken is not None and taken[0].image == expected
            if expected == "broken":
                with pytest.raises(ImageError):
                    taken[1].result()


def test_requests_are_pulled_as_needed() -> None:
    pulled: list[str] = []

    def for_ever() -> Iterator[Request]:
        for number in count():
            pulled.append(str(number))
            yield Request(str(number), "?")

    reader = Reader()
    reader.go.set()
    with closing(LookAhead(for_ever(), reader)) as ahead:
        assert pulled == []
        for number in range(5):
            assert ahead.take(wait=True) is not None
            assert len(pulled) == (number + 2 if number else 1), (
                "what was taken can be begun before the next is asked for"
            )
            ahead.look_ahead()
            until_read(reader, number + 3)
            assert len(pulled) == number + 3


class Live:
    """Requests that come, and fail, when they are let, and the threads that ask for them."""

    def __init__(self) -> None:
        self.come: Queue[Request | BaseException] = Queue()
        self.asked_in: list[threading.Thread] = []

    def __iter__(self) -> Iterator[Request]:
        while True:
            self.asked_in.append(threading.current_thread())
            request = self.come.get(timeout=60)
            if isinstance(request, BaseException):
                raise request
            yield request


def test_what_is_long_in_coming_is_not_waited_for() -> None:
    reader, live = Reader(), Live()
    reader.go.set()
    live.come.put(Request("a", "?"))
    with closing(LookAhead(live, reader)) as ahead:
        assert pixels(take(ahead, wait=True)) == "pixels of a"
        for _ in range(3):  # as answers are written
            assert take(ahead, wait=False) is None
        live.come.put(Request("b", "?"))
        until_read(reader, 2)
        assert pixels(take(ahead, wait=False)) == "pixels of b"
        threading.Timer(0.2, live.come.put, [Request("c", "?")]).start()
        assert pixels(take(ahead, wait=True)) == "pixels of c", "where nothing else is to be done, it is"
        live.come.put(LookupError("row 4"))
        with pytest.raises(LookupError, match="row 4"):
            take(ahead, wait=True)
    assert len(live.asked_in) == 4 and len(set(live.asked_in)) == 1
    assert live.asked_in[0].name == "cotcli-look-ahead"


def rows(closed_in: list[threading.Thread]) -> Iterator[Request]:
    """Requests out of a database, which is of no use in another thread than the one that opened it."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            for (image,) in database.execute("VALUES ('a'), ('b'), ('c'), ('d'), ('e')"):
                yield Request(image, "?")
        finally:
            closed_in.append(threading.current_thread())


def test_requests_are_asked_for_in_one_thread() -> None:
    reader, closed_in = Reader(), list[threading.Thread]()
    reader.go.set()
    with closing(LookAhead(rows(closed_in), reader)) as ahead:
        images = [taken[0].image for taken in iter(lambda: take(ahead, wait=True), None)]
    assert images == ["a", "b", "c", "d", "e"]
    assert [thread.name for thread in closed_in] == ["cotcli-look-ahead"]


def test_a_generator_that_is_left_is_closed_where_it_was_run() -> None:
    reader, closed_in = Reader(), list[threading.Thread]()
    reader.go.set()
    ahead = LookAhead(rows(closed_in), reader)
    assert pixels(ahead.take(wait=True)) == "pixels of a"
    assert closed_in == []
    ahead.close()
    until(lambda: bool(closed_in))
    assert [thread.name for thread in closed_in] == ["cotcli-look-ahead"]


def test_what_comes_when_nobody_is_there_is_not_read() -> None:
    reader, live = Reader(), Live()
    reader.go.set()
    live.come.put(Request("a", "?"))
    with closing(LookAhead(live, reader)) as ahead:
        take(ahead, wait=True)
        until(lambda: len(live.asked_in) == 2)
    live.come.put(Request("b", "?"))
    live.asked_in[0].join(60)
    assert not live.asked_in[0].is_alive()
    assert reader.read == ["a"]
    assert ahead.take(wait=True) is None and ahead.take(wait=False) is None


def test_a_list_may_grow_while_it_is_answered() -> None:
    reader = Reader()
    reader.go.set()
    requests = names("a", "b")
    with closing(LookAhead(requests, reader)) as ahead:
        images = []
        for more in (["c"], [], ["d"], ["e"]):
            images.append(take(ahead, wait=True)[0].image)
            time.sleep(0.05)  # for the thread, which is not to come to the end of the list
            requests += names(*more)
        assert [*images, take(ahead, wait=True)[0].image] == ["a", "b", "c", "d", "e"]
        assert take(ahead, wait=True) is None
        requests += names("f")
        assert take(ahead, wait=True) is None, "the end of a list is its end"


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_wait_for_what_does_not_come() -> None:
    reader, live = Reader(), Live()
    reader.go.set()
    live.come.put(Request("a", "?"))
    with closing(LookAhead(live, reader)) as ahead:
        take(ahead, wait=True)
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            ahead.take(wait=True)
        live.come.put(LookupError("nobody hears of it"))


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_ends_the_wait_for_a_picture() -> None:
    reader, live = Reader(), Live()
    came: list[Any] = []
    live.come.put(Request("a", "?"))
    with closing(LookAhead(live, reader)) as ahead:
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            came.append(ahead.take(wait=True))
            time.sleep(10)  # so that it hits nobody else
        assert came == []
        threading.Timer(0.2, reader.go.set).start()
        taken = ahead.take(wait=True)
        assert taken is not None and taken[1].done(), "it is waited for again"


def test_the_end_is_asked_for_once() -> None:
    asked: list[int] = []

    class Once:
        def __iter__(self) -> Once:
            return self

        def __next__(self) -> Request:
            asked.append(len(asked))
            if len(asked) > 1:
                raise StopIteration
            return Request(None, "?")

    with closing(LookAhead(Once(), Reader())) as ahead:
        assert [take(ahead, wait=True) is None for _ in range(3)] == [False, True, True]
    assert asked == [0, 1]


NEVER = """
import threading
from contextlib import closing
from cotcli.lookahead import LookAhead, Request

begun = threading.Event()

def read(image):
    if threading.current_thread() is not threading.main_thread():
        begun.set()
        threading.Event().wait()

with closing(LookAhead([Request("a", "?"), Request("b", "?")], read)) as ahead:
    ahead.take(wait=True)
    ahead.look_ahead()
    assert begun.wait(60)
"""


def test_a_picture_that_never_comes_keeps_no_process_from_ending() -> None:
    done = subprocess.run([sys.executable, "-c", NEVER], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
