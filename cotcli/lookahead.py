"""Requests to come, whose pictures are read in a thread while other answers are written.

Knows requests and when their pictures are there. Knows nothing of engines or answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from os import PathLike
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from cotcli.answer import GenerationParams

if TYPE_CHECKING:
    from cotcli.pictures import ImageSource, Picture

# So many that the next is there when an answer ends, and so few that their pixels are no matter: 15 MB each at most
# (see `cotcli.pictures`), besides the one that is being read.
_AHEAD = 2


@dataclass(frozen=True)
class Request:
    """A question about a picture, for ``Reasoner.stream_all``.

    Attributes:
        image: as ``Reasoner.stream`` takes it; None asks without a picture.
        params: how to generate; the model's own defaults when None.
        key: the caller's own.
    """

    image: ImageSource | None
    question: str
    params: GenerationParams | None = None
    key: Any = None


class LookAhead:
    """Hands out requests in their order, each with its picture, which is read once for requests in a row.

    Args:
        requests: asked for the next one only when there is room for it, by ``take`` and ``look_ahead``.
        read: reads a picture; called in a thread too, which keeps no process from ending.
    """

    def __init__(self, requests: Iterable[Request], read: Callable[[ImageSource], Picture]) -> None:
        self._requests, self._read = iter(requests), read
        self._waiting: deque[tuple[Request, Future[Picture | None]]] = deque()
        self._newest: tuple[ImageSource | None, Future[Picture | None]] | None = None
        self._ended = self._closed = False
        self._to_read: SimpleQueue[tuple[ImageSource | None, Future[Picture | None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def take(self, *, wait: bool) -> tuple[Request, Future[Picture | None]] | None:
        """The next request and its picture, which is None for a question without one.

        Args:
            wait: for the picture too. Otherwise there is nothing to take until it has been read.

        Returns:
            None if there is nothing to take; with ``wait`` that is the end.
        """
        if wait and not self._waiting:
            self._pull(self._read_here)  # nothing else is to be done meanwhile, and Ctrl-C can end it
        if self._waiting and (wait or self._waiting[0][1].done()):
            return self._waiting.popleft()
        return None

    def look_ahead(self) -> None:
        """Asks for requests while there is room for them, and has their pictures read.

        Apart from ``take``, so that what was taken can be begun first: the next request may be long in coming.
        """
        while len(self._waiting) < _AHEAD and self._pull(self._read_in_thread):
            pass

    def close(self) -> None:
        """Reads no more. The picture that is being read is left to the thread."""
        self._closed = True
        self._to_read.put(None)

    def _pull(self, read: Callable[[ImageSource | None], Future[Picture | None]]) -> bool:
        request = None if self._ended else next(self._requests, None)
        if request is None:
            self._ended = True
            return False
        if self._newest is None or not _same(self._newest[0], request.image):
            self._newest = request.image, read(request.image)
        self._waiting.append((request, self._newest[1]))
        return True

    def _read_here(self, image: ImageSource | None) -> Future[Picture | None]:
        future: Future[Picture | None] = Future()
        try:
            future.set_result(self._picture(image))
        except Exception as error:
            future.set_exception(error)
        return future

    def _read_in_thread(self, image: ImageSource | None) -> Future[Picture | None]:
        future: Future[Picture | None] = Future()
        self._to_read.put((image, future))
        if self._thread is None:
            # Not an executor's: those are waited for when the process ends, and a picture may never come.
            self._thread = threading.Thread(target=self._read_all, name="cotcli-pictures", daemon=True)
            self._thread.start()
        return future

    def _read_all(self) -> None:
        while (job := self._to_read.get()) is not None and not self._closed:
            self._fulfil(*job)

    def _fulfil(self, image: ImageSource | None, future: Future[Picture | None]) -> None:
        try:
            future.set_result(self._picture(image))
        except BaseException as error:  # carried over to whoever takes it
            future.set_exception(error)

    def _picture(self, image: ImageSource | None) -> Picture | None:
        return None if image is None else self._read(image)


def _same(one: ImageSource | None, other: ImageSource | None) -> bool:
    """Whether both are one source; pictures are told apart by their content later."""
    named = isinstance(one, (str, PathLike)) and type(one) is type(other)
    return one is other or (named and one == other)
