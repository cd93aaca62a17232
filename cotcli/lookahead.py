"""Requests to come, which are waited for, and their pictures read, in a thread while other answers are written.

Knows requests and when their pictures are there. Knows nothing of engines or answers.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from cotcli.answer import GenerationParams

if TYPE_CHECKING:
    from cotcli.pictures import ImageSource, Picture

# So many that the next is there when an answer ends, and so few that their pixels are no matter: 15 MB each at most
# (see `cotcli.pictures`), besides the one that is being read.
_AHEAD = 2
_PATIENCE = 0.5  # seconds until a wait looks up, without which Ctrl-C would not end it on Windows


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
        requests: asked for the next one only when there is room for it: by ``take``, or, while other answers are
            written, in a thread, since it may be long in coming. The thread keeps no process from ending.
        read: reads a picture; called in the thread too.
    """

    def __init__(self, requests: Iterable[Request], read: Callable[[ImageSource], Picture]) -> None:
        self._requests, self._read = iter(requests), read
        self._left = float(len(requests)) if isinstance(requests, Sequence) else math.inf
        self._waiting: deque[tuple[Request, Future[Picture | None]]] = deque()
        self._newest: tuple[ImageSource | None, Future[Picture | None]] | None = None
        # What follows is shared with the thread, as is `_waiting`.
        self._changed = threading.Condition()
        self._asked = 0
        """How many requests the thread is to ask for, or is asking for. Meanwhile nobody else does."""
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def take(self, *, wait: bool) -> tuple[Request, Future[Picture | None]] | None:
        """The next request and its picture, which is None for a question without one.

        Args:
            wait: for the picture too. Otherwise there is nothing to take until it has been read.

        Returns:
            None if there is nothing to take; with ``wait`` that is the end.

        Raises:
            BaseException: whatever the requests raise when they are asked for the next.
        """
        with self._changed:
            while wait and not self._waiting and self._asked and self._error is None:
                self._changed.wait(_PATIENCE)
            self._raise()
            if self._waiting:
                return self._waiting.popleft() if wait or self._waiting[0][1].done() else None
            if not wait or not self._left:
                return None
        # Nothing else is to be done meanwhile, and Ctrl-C can end it here.
        pulled = self._pull()
        if pulled is None:
            return None
        request, future, is_new = pulled
        if is_new:
            self._fulfil(request.image, future)
        return request, future

    def look_ahead(self) -> None:
        """Has the thread ask for requests while there is room for them, and read their pictures.

        Apart from ``take``, so that what was taken can be begun first.

        Raises:
            BaseException: as ``take``.
        """
        with self._changed:
            self._raise()
            wanted = min(_AHEAD - len(self._waiting), self._left)
            if self._asked >= wanted:
                return
            self._asked = int(wanted)
            self._changed.notify_all()
            if self._thread is None:
                # Not an executor's: those are waited for when the process ends, and a request may never come.
                self._thread = threading.Thread(target=self._work, name="cotcli-pictures", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Asks for no more. What is being waited for, or read, is left to the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _pull(self) -> tuple[Request, Future[Picture | None], bool] | None:
        """The next request, its picture to be, and whether that has still to be read; None at the end, or an error."""
        request = next(self._requests, None)
        if request is None:
            self._left = 0
            return None
        self._left -= 1
        is_new = self._newest is None or not _same(self._newest[0], request.image)
        if self._newest is None or is_new:
            self._newest = request.image, Future()
        return request, self._newest[1], is_new

    def _work(self) -> None:
        while self._wait_to_be_asked():
            pulled, error = None, None
            try:
                pulled = self._pull()
            except BaseException as raised:  # carried over to whoever takes the next
                error = raised
            with self._changed:
                self._asked = self._asked - 1 if self._left and error is None else 0
                self._error = error
                if pulled is not None:
                    self._waiting.append(pulled[:2])
                self._changed.notify_all()
            if pulled is not None and pulled[2]:
                self._fulfil(pulled[0].image, pulled[1])

    def _wait_to_be_asked(self) -> bool:
        with self._changed:
            while not self._asked and not self._closed:
                self._changed.wait()
            return not self._closed

    def _fulfil(self, image: ImageSource | None, future: Future[Picture | None]) -> None:
        """Reads a picture; what goes wrong is carried over to whoever takes it. Ctrl-C comes out where it is raised."""
        try:
            future.set_result(None if image is None else self._read(image))
        except Exception as error:
            future.set_exception(error)
        except BaseException as error:
            future.set_exception(error)
            if threading.current_thread() is not self._thread:
                raise


def _same(one: ImageSource | None, other: ImageSource | None) -> bool:
    """Whether both are one source; pictures are told apart by their content later."""
    named = isinstance(one, (str, PathLike)) and type(one) is type(other)
    return one is other or (named and one == other)
