"""Preprocessing against transformers' `MllamaImageProcessorPil`, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from cotcli.image import ImagePreprocessing, prepare_image
from cotcli.image.decode import to_rgb
from tests.parity.preprocessing_reference import MODES, options, picture, reference_batch

# Sizes where a comparison, a floor or a clip may go either way.
EDGES = [
    (1, 1), (1, 2), (2, 1), (3, 3), (1, 560), (560, 1), (560, 560), (559, 560), (560, 561), (561, 561), (1120, 560),
    (560, 1120), (1120, 1120), (1121, 1120), (1119, 1119), (1680, 560), (560, 1680), (2240, 560), (560, 2240),
    (2241, 560), (2240, 559), (1, 4000), (4000, 1), (2, 4000), (4000, 3), (4000, 300), (300, 4000), (280, 280),
    (1120, 1), (1, 1120), (841, 841), (1000, 2000), (2000, 1000), (1500, 1500), (560, 281), (281, 560), (3, 1), (1, 3),
]  # fmt: skip
UNUSUAL_RATIOS = [
    ((1, 1),),
    ((2, 2), (1, 1), (4, 1), (1, 4)),
    ((1, 4), (4, 1)),
    ((2, 1), (1, 2), (2, 2)),
    ((1, 3), (3, 1), (2, 3), (3, 2)),
]


def random_sizes(count: int, seed: int) -> list[tuple[int, int]]:
    """(width, height) spread evenly over magnitudes, 1x1 to 4000x300 and 300x4000."""
    rng = np.random.default_rng(seed)
    sizes = []
    for _ in range(count):
        long, short = (int(np.exp(rng.uniform(0, np.log(most + 1)))) for most in (4000, 300))
        sizes.append((long, short) if rng.random() < 0.5 else (short, long))
    return sizes


def assert_same(width: int, height: int, mode: str, seed: int, preprocessing: ImagePreprocessing) -> None:
    image = picture(width, height, mode, seed)
    expected = reference_batch(image.copy(), preprocessing)
    prepared = prepare_image(image, preprocessing)
    assert prepared.pixel_values.dtype == np.float32
    assert prepared.pixel_values.shape == expected["pixel_values"].shape
    assert prepared.aspect_ratio_id == expected["aspect_ratio_id"]
    assert prepared.num_tiles == expected["num_tiles"]
    mask = np.arange(preprocessing.max_num_tiles) < prepared.num_tiles
    np.testing.assert_array_equal(mask, expected["aspect_ratio_mask"].astype(bool))
    np.testing.assert_array_equal(prepared.pixel_values, expected["pixel_values"])
    assert (prepared.width, prepared.height) == (width, height)


@pytest.mark.parametrize("part", range(4))
def test_random_sizes_at_560(part: int) -> None:
    for seed, (width, height) in enumerate(random_sizes(200, seed=7)):
        if seed % 4 == part:
            assert_same(width, height, MODES[seed % len(MODES)], seed, options(560, 4))


def test_edges_at_560() -> None:
    for seed, (width, height) in enumerate(EDGES):
        assert_same(width, height, "RGB", seed, options(560, 4))


@pytest.mark.parametrize(("tile", "tiles"), [(448, 4), (56, 4), (64, 4), (32, 1), (30, 2), (48, 6), (14, 12), (1, 4)])
def test_other_tiles(tile: int, tiles: int) -> None:
    sizes = random_sizes(40, seed=tile) + [(tile * c, tile * r) for r in range(1, 5) for c in range(1, 5)]
    for seed, (width, height) in enumerate(sizes):
        assert_same(width, height, MODES[seed % len(MODES)], seed, options(tile, tiles))


@pytest.mark.parametrize("ratios", UNUSUAL_RATIOS)
def test_ratios_of_the_checkpoint(ratios: tuple[tuple[int, int], ...]) -> None:
    tiles = max(rows * columns for rows, columns in ratios)
    for seed, (width, height) in enumerate(random_sizes(40, seed=3) + EDGES[:12]):
        assert_same(width, height, "RGB", seed, options(56, tiles, ratios))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode(mode: str) -> None:
    for seed in range(6):
        assert_same(61 + 7 * seed, 83 - 11 * seed, mode, seed, options(32, 4))


def test_rescale_factor_from_float32_metadata() -> None:
    """A GGUF file may hold 1/255 as float32; the pixels are the checkpoint's all the same."""
    exact = options(64, 4)
    stored = ImagePreprocessing(**{**exact.__dict__, "rescale_factor": float(np.float32(1 / 255))})
    image = picture(100, 90, "RGB", 1)
    expected = reference_batch(image, exact)["pixel_values"]
    np.testing.assert_array_equal(prepare_image(image, stored).pixel_values, expected)


def test_rgb_conversion_is_the_references() -> None:
    from transformers.image_transforms import convert_to_rgb

    for seed, mode in enumerate(MODES):
        image = picture(33, 21, mode, seed)
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), convert_to_rgb(image, return_numpy=True))
