"""Sequences of tokens, and the part of the cache that each of them has.

Knows places in libllama's cache and who has them, and that a sequence may have an image. What goes into a pass is
decided elsewhere.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cotcli.errors import ResourceError
from cotcli.mllama.cross_attention import ImageKV
from cotcli.native import interrupt
from cotcli.native.llama import LlamaContext


@dataclass(eq=False)
class TokenSequence:
    """A sequence of tokens in the cache. Made, copied and removed by its table only."""

    id: int
    """Its place in the cache; may change between passes, since the last one takes the place of one that has ended."""
    image: ImageKV | None
    length: int = 0
    image_at: int | None = None
    """Position of the image token, None before it has come."""
    output: int | None = None
    """The place of its newest logits in the last batch; None once another batch has run."""

    @property
    def sees_image(self) -> bool:
        return self.image_at is not None


class SequenceTable:
    """The sequences in use, at most ``places`` of them."""

    def __init__(self, context: LlamaContext, places: int) -> None:
        self._context, self._places = context, places
        self._free = list(range(places))  # a heap
        self._used: set[TokenSequence] = set()

    def __iter__(self) -> Iterator[TokenSequence]:
        return iter(self._used)

    def __contains__(self, sequence: TokenSequence) -> bool:
        return sequence in self._used

    def new(self, image: ImageKV | None) -> TokenSequence:
        """An empty sequence, which holds the image.

        Raises:
            ResourceError: every place is taken.
        """
        sequence = TokenSequence(self._take(), image.retain() if image else None)
        self._used.add(sequence)
        return sequence

    def copy(self, sequence: TokenSequence) -> TokenSequence:
        """Another with the same tokens and image, and the same newest logits.

        Raises:
            ResourceError: every place is taken.
        """
        twin = replace(sequence, id=self._take(), image=sequence.image.retain() if sequence.image else None)
        self._context.copy(sequence.id, twin.id)
        self._used.add(twin)
        return twin

    def remove(self, sequence: TokenSequence) -> ImageKV | None:
        """Frees its place. Returns the image, whose hold is the caller's now: Ctrl-C should wait until it is let go."""
        self._used.remove(sequence)
        self._context.remove(sequence.id)
        heapq.heappush(self._free, sequence.id)
        image, sequence.image = sequence.image, None
        return image

    def truncate(self, sequence: TokenSequence, length: int) -> None:
        """Forgets the tokens from position ``length`` on, the image token too if it is among them."""
        self._context.remove(sequence.id, length)
        sequence.length, sequence.output = length, None
        if sequence.image_at is not None and sequence.image_at >= length:
            sequence.image_at = None

    def bring_together(self, sequences: Iterable[TokenSequence]) -> None:
        """Puts the last sequences where others have ended, if that parts these: only neighbours in the cache can share
        a pass. A move copies a sequence's whole part of the cache."""
        ids = [sequence.id for sequence in sequences]
        if not any(min(ids) < free < max(ids) for free in self._free if ids):
            return
        for sequence in sorted(self._used, key=lambda sequence: -sequence.id):
            if self._free[0] > sequence.id:
                return
            with interrupt.deferred():
                place = heapq.heapreplace(self._free, sequence.id)
                self._context.copy(sequence.id, place)
                self._context.remove(sequence.id)
                sequence.id = place

    def _take(self) -> int:
        if not self._free:
            raise ResourceError(
                f"all {self._places} sequences are in use",
                "Load the model with more: cotcli.load(..., max_sequences=N)",
            )
        return heapq.heappop(self._free)
