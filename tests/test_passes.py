"""Which sequences share a pass."""

from __future__ import annotations

import pytest

from cotcli.engine.passes import Decode, PassSizes, share_out
from cotcli.engine.sequences import TokenSequence

IMAGE = 99


def test_an_image_goes_alone_with_other_images() -> None:
    """And a first request takes along those before it in the cache, up to a gap."""
    tokens = {3: [IMAGE, 1], 2: [IMAGE], 1: [1, 1], 5: [IMAGE]}
    requests = [Decode(TokenSequence(number, None), rest) for number, rest in tokens.items()]
    assert share_out(requests, PassSizes(128, 128), IMAGE) == ([1, 1, 0, 0], True)


def shared(sizes: PassSizes, *lengths: int) -> list[int]:
    """Of sequences side by side that have so many tokens to come: how many of each go into the first pass."""
    requests = [Decode(TokenSequence(number, None), [1] * length) for number, length in enumerate(lengths)]
    counts, embedding = share_out(requests, sizes, IMAGE)
    assert not embedding
    return counts


@pytest.mark.parametrize(
    ("machine", "cpu_k_quants", "repacked", "sizes"),
    [
        ("x86_64", True, False, PassSizes(128, 7)),
        ("AMD64", True, True, PassSizes(128, 4, 16)),
        ("x86_64", False, True, PassSizes(128, 128)),
        ("aarch64", True, True, PassSizes(128, 128)),
    ],
)
def test_sizes_are_those_of_x86_kernels_for_k_quants(
    machine: str, cpu_k_quants: bool, repacked: bool, sizes: PassSizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert PassSizes.of(128, cpu_k_quants=cpu_k_quants, repacked=repacked) == sizes


@pytest.mark.parametrize(
    ("sizes", "at_once", "together"),
    [
        (PassSizes(128, 128), 100, 100),
        (PassSizes(8, 8), 100, 8),
        (PassSizes(128, 7), 13, 7),
        (PassSizes(128, 7), 100, 7),
        (PassSizes(128, 4, 16), 3, 3),
        (PassSizes(128, 4, 16), 8, 4),
        (PassSizes(128, 4, 16), 15, 4),
        (PassSizes(128, 4, 16), 16, 16),
        (PassSizes(128, 4, 16), 100, 100),
        (PassSizes(12, 4, 16), 100, 4),
        (PassSizes(1, 1), 3, 1),
    ],
    ids=str,
)
def test_a_token_each(sizes: PassSizes, at_once: int, together: int) -> None:
    assert shared(sizes, *[1] * at_once) == [1] * together + [0] * (at_once - together)


@pytest.mark.parametrize(
    ("sizes", "lengths", "taken"),
    [
        (PassSizes(32, 32), (12, 12, 12), [12, 12, 0]),
        (PassSizes(32, 7), (4, 4), [4, 0]),  # eight columns would be a large pass
        (PassSizes(32, 7), (8, 8, 8, 8, 8), [8, 8, 8, 8, 0]),
        (PassSizes(128, 7), (9,) * 9, [9] * 7 + [0, 0]),  # in the last layer each has one column
        (PassSizes(128, 4, 16), (4, 4, 4, 4), [4, 4, 4, 4]),
        (PassSizes(128, 4, 16), (4, 4, 4), [4, 0, 0]),
        (PassSizes(128, 4, 16), (9,) * 9, [9] * 9),
        (PassSizes(8, 8), (100, 100), [8, 0]),
        (PassSizes(4, 7), (2, 2, 2), [2, 2, 0]),
        (PassSizes(2, 4, 16), (2, 2), [2, 0]),
        (PassSizes(2, 4, 16), (1, 1, 1), [1, 1, 0]),
        (PassSizes(8, 8), (0, 3, 3, 2), [0, 3, 3, 0]),
    ],
    ids=str,
)
def test_prompts(sizes: PassSizes, lengths: tuple[int, ...], taken: list[int]) -> None:
    assert shared(sizes, *lengths) == taken
