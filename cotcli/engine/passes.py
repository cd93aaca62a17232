"""What of several requests goes into the next pass over the weights, and in which columns.

Knows sequences and their tokens. Knows nothing of libllama: the engine carries a pass out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cotcli.mllama.cross_attention import ColumnGroup, ImageKV


@dataclass(eq=False)
class TokenSequence:
    """A sequence of tokens in the cache. Made, forked and dropped by the engine only."""

    id: int
    image: ImageKV | None
    length: int = 0
    image_at: int | None = None
    """Position of the image token, None before it has come."""
    output: int | None = field(default=None)
    """The place of its newest logits in the last batch; None once another batch has run."""

    @property
    def sees_image(self) -> bool:
        return self.image_at is not None


class Decode(NamedTuple):
    """Tokens to append to a sequence."""

    sequence: TokenSequence
    tokens: Sequence[int]


@dataclass(frozen=True)
class Pass:
    """The columns of one pass, those of a sequence side by side.

    Attributes:
        runs: what each sequence appends, in the order of the columns.
        groups: the columns that attend to an image, as ``CrossAttentionHook.expect`` takes them.
        tokens, positions, ids: of each column; its sequence's id.
        wanted: whether a column's logits are wanted.
    """

    runs: list[Decode]
    groups: list[ColumnGroup]
    tokens: list[int]
    positions: list[int]
    ids: list[int]
    wanted: list[bool]


def share_out(requests: Sequence[Decode], room: int, image_token: int) -> tuple[list[int], bool]:
    """How many tokens of each request go into a pass of ``room``, and whether they are image tokens.

    Image tokens go in as embeddings, so in a pass of their own, as soon as one is next: then all that come at the same
    place of several prompts share one.
    """
    at_image = [bool(tokens) and tokens[0] == image_token for _, tokens in requests]
    if any(at_image):
        return [int(flag) for flag in at_image], True
    counts = []
    for _, tokens in requests:
        run = tokens[:room]
        counts.append(run.index(image_token) if image_token in run else len(run))
        room -= counts[-1]
    return counts, False


def lay_out(runs: Sequence[Decode], every: bool) -> Pass:
    """The columns of these runs: those that see an image first, by image; those before theirs; those without one.

    Args:
        every: whether the logits after every token are wanted, and not only after the last of each run.
    """
    runs = sorted(runs, key=lambda run: _place(run.sequence))
    laid = Pass(runs, [], [], [], [], [])
    for sequence, tokens in runs:
        if sequence.image is not None:
            last = laid.groups[-1] if laid.groups else None
            if last and last.image is sequence.image and last.sees_image == sequence.sees_image:
                laid.groups[-1] = ColumnGroup(last.start, last.count + len(tokens), last.image, last.sees_image)
            else:
                laid.groups.append(ColumnGroup(len(laid.tokens), len(tokens), sequence.image, sequence.sees_image))
        laid.tokens.extend(tokens)
        laid.positions.extend(range(sequence.length, sequence.length + len(tokens)))
        laid.ids.extend([sequence.id] * len(tokens))
        laid.wanted.extend([every] * (len(tokens) - 1) + [True])
    return laid


def _place(sequence: TokenSequence) -> tuple[bool, bool, int, int]:
    return (sequence.image is None, not sequence.sees_image, id(sequence.image), sequence.id)
