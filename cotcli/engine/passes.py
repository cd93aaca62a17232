"""What of several requests goes into the next pass over the weights, and in which columns.

Knows sequences, their tokens, and how many columns ggml's kernels take well. Knows nothing of libllama: the engine
carries a pass out.
"""

from __future__ import annotations

import platform
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotcli.engine.sequences import TokenSequence
from cotcli.mllama.cross_attention import ColumnGroup

_UNTILED = 7
"""Most columns that ggml's x86 kernels multiply with K-quants one by one; tiles of more round sums otherwise, and were
not seen to be faster (``ggml-cpu/tiled/tiled.cpp``, ``ggml_tiled_min_batch``)."""

_REPACKED = 4, 16
"""Columns that repacked K-quants are fast with, and from how many on again. In tokens a second of a prompt without a
picture, at 11B shapes on AVX-512: 6.5 with four, 5.0 with eight, 4.9 with twelve, 9.0 with sixteen.
Not tried elsewhere."""


class Decode(NamedTuple):
    """Tokens to append to a sequence."""

    sequence: TokenSequence
    tokens: Sequence[int]


@dataclass(frozen=True)
class PassSizes:
    """How many columns go into a pass.

    Attributes:
        room: at most.
        few: passes of up to so many are computed otherwise than larger ones. What alone would be a small one shares
            only small ones, so that it comes out the same, or because it is faster.
        many: passes of so many, or more, are as good as small ones; None if they never are.
    """

    room: int
    few: int
    many: int | None = None

    @classmethod
    def of(cls, room: int, *, cpu_k_quants: bool, repacked: bool) -> PassSizes:
        """Those of a model.

        Args:
            room: columns that fit into a batch.
            cpu_k_quants: whether the CPU multiplies with K-quants.
            repacked: whether these are in its own layout, ``EngineOptions.repack``.
        """
        if not cpu_k_quants or platform.machine().lower() not in ("x86_64", "amd64"):
            return cls(room, room)
        return cls(room, *_REPACKED) if repacked else cls(room, _UNTILED)


@dataclass(frozen=True)
class Pass:
    """The columns of one pass, those of a sequence side by side.

    Attributes:
        runs: what each sequence appends, in the order of the columns.
        groups: the columns that have an image, as ``CrossAttentionHook.expect`` takes them.
        tokens, positions, ids: of each column; its sequence's id.
        wanted: whether a column's logits are wanted.
    """

    runs: list[Decode]
    groups: list[ColumnGroup]
    tokens: list[int]
    positions: list[int]
    ids: list[int]
    wanted: list[bool]


def share_out(requests: Sequence[Decode], sizes: PassSizes, image_token: int) -> tuple[list[int], bool]:
    """How many tokens of each request go into a pass, and whether they are image tokens.

    What the first request has next goes, and beside it what others have next, as far as that is as many tokens and the
    sequences are neighbours in the cache: any other batch libllama would split (``llama_batch_allocr::split_equal``).
    Image tokens go in as embeddings, so in a pass of their own, as soon as one is next: then all that come at the same
    place of several prompts share one.
    """
    at_image = [bool(tokens) and tokens[0] == image_token for _, tokens in requests]
    if any(at_image):
        next_tokens = [int(flag) for flag in at_image]
    else:
        next_tokens = [_before(image_token, tokens[: sizes.room]) for _, tokens in requests]
    counts = [0] * len(requests)
    first = next((i for i, count in enumerate(next_tokens) if count), None)
    if first is not None:
        count = next_tokens[first]
        alike = {sequence.id: i for i, (sequence, _) in enumerate(requests) if next_tokens[i] == count}
        own = requests[first].sequence.id
        few = min(sizes.few, sizes.room)
        together = _neighbours(own, alike, sizes.room // count)
        if sizes.many is None or len(together) * count < sizes.many:
            # Inside the last layer a sequence has one column, so that there must be few sequences too.
            most = min(few, (few if count <= few else sizes.room) // count)
            together = _neighbours(own, alike, most)
        for sequence_id in together:
            counts[alike[sequence_id]] = count
    return counts, any(at_image)


def _neighbours(own: int, others: Container[int], most: int) -> range:
    """Ids side by side, its own among them, at most so many or else it alone; those after it first."""
    start, end = own, own + 1
    while end in others and end - start < most:
        end += 1
    while start - 1 in others and end - start < most:
        start -= 1
    return range(start, end)


def lay_out(runs: Sequence[Decode], every: bool) -> Pass:
    """The columns of these runs, in the order of their sequences in the cache, as libllama has them.

    Args:
        every: whether the logits after every token are wanted, and not only after the last of each run.
    """
    runs = sorted(runs, key=lambda run: run.sequence.id)
    laid = Pass(runs, [], [], [], [], [])
    for sequence, tokens in runs:
        if sequence.image is not None:
            start, count = len(laid.tokens), len(tokens)
            last = laid.groups[-1] if laid.groups else None
            if last and last.end == start and (last.image, last.sees_image) == (sequence.image, sequence.sees_image):
                start, count = last.start, last.count + count
                laid.groups.pop()
            laid.groups.append(ColumnGroup(start, count, sequence.image, sequence.sees_image))
        laid.tokens.extend(tokens)
        laid.positions.extend(range(sequence.length, sequence.length + len(tokens)))
        laid.ids.extend([sequence.id] * len(tokens))
        laid.wanted.extend([every] * (len(tokens) - 1) + [True])
    return laid


def _before(image_token: int, tokens: Sequence[int]) -> int:
    """How many tokens come before the image's."""
    return tokens.index(image_token) if image_token in tokens else len(tokens)
