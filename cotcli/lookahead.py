"""Requests to come, whose pictures are read in a thread while other answers are written.

Knows requests and when their pictures are there. Knows nothing of engines or answers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from cotcli.answer import GenerationParams

if TYPE_CHECKING:
    from cotcli.pictures import ImageSource, Picture

# So many that the next is there when an answer ends, and so few that their pixels are no matter (15 MB each at most).
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
        requests: asked for the next one only when there is room for it.
        read: reads a picture; called in a thread too.
    """

    def __init__(self, requests: Iterable[Request], read: Callable[[ImageSource], Picture]) -> None:
        self._requests, self._read = iter(requests), read
        self._waiting: deque[tuple[Request, Future[Picture | None]]] = deque()
        self._newest: tuple[ImageSource | None, Future[Picture | None]] | None = None
        self._thread: ThreadPoolExecutor | None = None

    def take(self, *, wait: bool) -> tuple[Request, Future[Picture | None]] | None:
        """The next request and its picture, which is None for a question without one.

        Args:
            wait: for the picture too. Otherwise there is nothing to take until it has been read.

        Returns:
            None if there is nothing to take; with ``wait`` that is the end.
        """
        if wait and not self._waiting:
            self._pull(self._read_here)  # nothing else is to be done meanwhile, and Ctrl-C can end it
        taken = None
        if self._waiting and (wait or self._waiting[0][1].done()):
            taken = self._waiting.popleft()
        while len(self._waiting) < _AHEAD and self._pull(self._read_in_thread):
            pass
        return taken

    def close(self) -> None:
        """Reads no more."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)

    def _pull(self, read: Callable[[ImageSource | None], Future[Picture | None]]) -> bool:
        request = next(self._requests, None)
        if request is None:
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
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="cotcli-pictures")
        return self._thread.submit(self._picture, image)

    def _picture(self, image: ImageSource | None) -> Picture | None:
        return None if image is None else self._read(image)


def _same(one: ImageSource | None, other: ImageSource | None) -> bool:
    """Whether both are one source; pictures are told apart by their content later."""
    named = isinstance(one, (str, PathLike)) and type(one) is type(other)
    return one is other or (named and one == other)
