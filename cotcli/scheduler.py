"""Continuous batching: several answers at once, in rounds. Each pass of the engine takes those whose next tokens go
together, until all have been in one.

Knows generators that ask for tokens to be decoded. Knows nothing of pictures, prompts or stages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from cotcli.answer import Answer
from cotcli.engine import Decode, Engine, TokenSequence
from cotcli.errors import CotcliError, ResourceError
from cotcli.native import interrupt
from cotcli.stages import StageEvent

K = TypeVar("K")
T = TypeVar("T")
Writing: TypeAlias = Generator[StageEvent | Answer | Decode, None, None]
"""An answer in the making: events, the tokens to decode in between, and the ``Answer`` at last."""
RequestOutput: TypeAlias = StageEvent | Answer | CotcliError


@dataclass(eq=False)
class _Running(Generic[K]):
    key: K
    writing: Writing
    sequence: TokenSequence = field(init=False)
    ahead: Sequence[int] = ()
    """What is still to be decoded before the writing can go on."""


class Scheduler(Generic[K, T]):
    """Writes answers until there are no more to start.

    Args:
        start: gives the next answer with a key of the caller's, or None if there is none to start now; told whether it
            may wait for one, in which case None is the end.
        meanwhile: called before each pass, when all have been begun that can be.
        give: makes of a key and an item what ``run`` gives.
        parallel: answers at once; the place of one that has ended is taken by the next.
    """

    def __init__(
        self,
        engine: Engine,
        start: Callable[[bool], tuple[K, Writing] | None],
        meanwhile: Callable[[], None],
        give: Callable[[K, RequestOutput], T],
        parallel: int,
    ) -> None:
        self._engine, self._start, self._give, self._parallel = engine, start, give, parallel
        self._meanwhile = meanwhile
        self._running: list[_Running[K]] = []
        self._due: list[_Running[K]] = []  # have not been in a pass since the others were
        self._outputs: deque[tuple[K, RequestOutput]] = deque()
        self._interrupted = False

    def run(self) -> Generator[T, None, None]:
        """All that the answers give.

        What goes wrong with one answer is its last item, and the others go on. KeyboardInterrupt, raised or thrown in,
        ends those that are being written with what there is; it comes out again only where there is none.
        """
        try:
            while True:
                while len(self._running) < self._parallel and self._start_next():
                    yield from self._given()
                if not self._running:
                    return
                self._meanwhile()
                self._pass()
                yield from self._given()
        except KeyboardInterrupt:
            self._interrupt()
            yield from self._given()
            if not self._interrupted:
                raise
        finally:
            for task in self._running:
                task.writing.close()

    def _given(self) -> Iterator[T]:
        while self._outputs:
            yield self._give(*self._outputs.popleft())

    def _start_next(self) -> bool:
        started = self._start(not self._running)
        if started is None:
            return False
        task = _Running(*started)
        self._running.append(task)
        self._go_on(task)
        return True

    def _pass(self) -> None:
        """One pass. All have been in one before anybody is in the next."""
        self._due = [task for task in self._due if task in self._running]
        if not self._due:
            # Steps before long prompts, and neighbours in the cache, which can share a pass, side by side.
            self._due = sorted(self._running, key=lambda task: (len(task.ahead), task.sequence.id))
        try:
            self._advance(self._due)
        except (CotcliError, MemoryError) as error:
            if len(self._due) == 1:
                self._go_on(self._due[0], error)
            else:
                self._one_by_one()

    def _one_by_one(self) -> None:
        """Finds whom a pass fails for, the newest first: it ends, and its memory may be what the others lack."""
        for task in sorted(self._due, key=self._running.index, reverse=True):
            try:
                self._advance([task])
            except (CotcliError, MemoryError) as error:
                self._go_on(task, error)
                return

    def _advance(self, tasks: Sequence[_Running[K]]) -> None:
        """One pass; then those whose tokens are all decoded go on, before another pass rewrites their logits."""
        counts = self._engine.advance([Decode(task.sequence, task.ahead) for task in tasks])
        with interrupt.deferred():  # so that each has drawn its token and no text is lost
            taken = [task for task, count in zip(tasks, counts, strict=True) if count]
            self._due = [task for task in self._due if task not in taken]
            for task, count in zip(tasks, counts, strict=True):
                task.ahead = task.ahead[count:]
                if not task.ahead:
                    self._go_on(task)
        if self._interrupted:
            raise KeyboardInterrupt

    def _go_on(self, task: _Running[K], error: BaseException | None = None) -> None:
        """Runs one to where it needs tokens decoded, or to its end; ``error`` is thrown in."""
        try:
            item = next(task.writing) if error is None else task.writing.throw(error)
            while not isinstance(item, Decode):
                self._outputs.append((task.key, item))
                self._interrupted |= isinstance(item, Answer) and item.finish_reason == "interrupted"
                item = next(task.writing)
            task.sequence, task.ahead = item
            return
        except StopIteration:
            pass
        except CotcliError as failure:
            self._outputs.append((task.key, failure))
        except MemoryError:
            self._outputs.append((task.key, ResourceError("out of memory", "Try a smaller quantization or --ctx")))
        self._running.remove(task)

    def _interrupt(self) -> None:
        for task in self._running.copy():
            with suppress(KeyboardInterrupt):  # of one that has not begun to write
                self._go_on(task, KeyboardInterrupt())
