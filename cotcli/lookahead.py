"""Requests to come, which are waited for, and their pictures read, in a thread while other answers are written.

Knows requests and when their pictures are there. Knows nothing of engines or answers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
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
_PATIENCE_S = 0.5  # until a wait looks up, without which Ctrl-C would not end it on Windows


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
        requests: asked for the next one only when there is room for it, and in a thread, since it may be long in
            coming: all in the same one, since what they hold may be of use in no other. It keeps no process from
            ending. A list or tuple, which any thread may ask, is asked by ``take`` too, so that one request needs no
            thread; it may grow until its end is taken.
        read: reads a picture; called in the thread too.
    """

    def __init__(self, requests: Iterable[Request], read: Callable[[ImageSource], Picture]) -> None:
        self._read = read
        # Only for whoever asks for requests: the thread while `_asked`, and who takes from a list otherwise.
        self._requests = iter(requests)
        self._newest: tuple[ImageSource | None, Future[Picture | None]] | None = None
        # What follows is read and changed by all, and with `_changed` held.
        self._changed = threading.Condition()
        self._list = requests if isinstance(requests, (list, tuple)) else None
        self._pulled = 0
        self._waiting: deque[tuple[Request, Future[Picture | None]]] = deque()
        self._asked = 0
        """How many requests the thread is to ask for, or is asking for. Meanwhile nobody else does."""
        self._error: BaseException | None = None
        self._ended = False
        """No more is to be asked for: there is no more, or nobody is there to take it."""
        self._thread: threading.Thread | None = None

    def take(self, *, wait: bool) -> tuple[Request, Future[Picture | None]] | None:
        """The next request and its picture, which has been read, or failed; it is None for a question without one.

        Args:
            wait: for a request, and for its picture. Otherwise there is nothing to take until both are there.

        Returns:
            None if there is nothing to take; with ``wait`` that is the end.

        Raises:
            BaseException: whatever the requests raise when they are asked for the next.
        """
        with self._changed:
            if wait and self._list is None and not self._waiting and self._error is None:
                self._ask_for(1)
            while wait and self._error is None and (not self._is_read() if self._waiting else self._asked):
                self._changed.wait(_PATIENCE_S)
            self._raise()
            if self._waiting:
                return self._waiting.popleft() if self._is_read() else None
            if not wait or self._ended:
                return None
        # A list's next. Nothing else is to be done meanwhile, and Ctrl-C can end it here.
        pulled = self._pull()
        with self._changed:
            self._count(pulled is not None)
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
            room = _AHEAD - len(self._waiting)
            # Not for the end of a list: until that is taken, the list may grow.
            self._ask_for(room if self._list is None else min(room, len(self._list) - self._pulled))

    def close(self) -> None:
        """Asks for no more. What is being waited for is left to the thread, as is a picture that is being read."""
        with self._changed:
            self._ended, self._asked = True, 0
            self._changed.notify_all()

    def _ask_for(self, count: int) -> None:
        if self._asked >= count or self._ended:
            return
        self._asked = count
        self._changed.notify_all()
        if self._thread is None:
            # Not an executor's: those are waited for when the process ends, and a request may never come.
            self._thread = threading.Thread(target=self._work, name="cotcli-look-ahead", daemon=True)
            self._thread.start()

    def _is_read(self) -> bool:
        return self._waiting[0][1].done()

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _count(self, is_one: bool) -> None:
        self._pulled += is_one
        self._ended |= not is_one

    def _pull(self) -> tuple[Request, Future[Picture | None], bool] | None:
        """The next request, its picture to be, and whether that has still to be read; None at the end, or an error."""
        for request in self._requests:
            is_new = self._newest is None or not _same(self._newest[0], request.image)
            if self._newest is None or is_new:
                self._newest = request.image, Future()
            return request, self._newest[1], is_new
        return None

    def _work(self) -> None:
        while self._wait_to_be_asked():
            pulled, error = None, None
            try:
                pulled = self._pull()
            except BaseException as raised:  # carried over to whoever takes the next
                error = raised
            with self._changed:
                if self._ended:  # nobody is there any more
                    break
                if error is None:
                    self._count(pulled is not None)
                self._error = error
                self._asked = 0 if self._ended or error is not None else self._asked - 1
                if pulled is not None:
                    self._waiting.append(pulled[:2])
                self._changed.notify_all()
            if pulled is not None and pulled[2]:
                self._fulfil(pulled[0].image, pulled[1])
                with self._changed:
                    self._changed.notify_all()
        # A generator that nobody else holds is closed where it was run.
        self._requests = iter(())

    def _wait_to_be_asked(self) -> bool:
        with self._changed:
            while not self._asked and not self._ended:
                self._changed.wait()
            return not self._ended

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
