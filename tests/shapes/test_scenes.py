"""Scenes: the same seed gives the same scene and bytes; objects fit, keep apart and are drawn where the scene says."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest

from cotcli.image.prepare import best_arrangement
from cotcli.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_SEED,
    MAX_OBJECTS,
    SHAPES,
    TRAIN_SEED_BITS,
    Background,
    Scene,
    cell_name,
    draw,
    make_scene,
)
from tests.shapes.reading import scene_of

SEEDS = range(300)
DRAWN = range(60)
RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))


def test_same_seed_same_scene_and_same_bytes() -> None:
    for seed in range(12):
        again = make_scene(seed)
        assert scene_of(seed) == again
        assert draw(scene_of(seed)).tobytes() == draw(again).tobytes()
    assert len({hashlib.sha256(draw(scene_of(seed)).tobytes()).hexdigest() for seed in range(12)}) == 12


def test_held_out_seeds_lie_beyond_all_training_seeds() -> None:
    assert HELD_OUT_SEED >= 2**TRAIN_SEED_BITS


def test_objects_lie_inside_and_apart() -> None:
    for seed in SEEDS:
        scene = scene_of(seed)
        assert 1 <= len(scene.objects) <= MAX_OBJECTS
        unit = math.sqrt(scene.width * scene.height)
        for item in scene.objects:
            assert 0 < item.x - item.radius < item.x + item.radius < scene.width
            assert 0 < item.y - item.radius < item.y + item.radius < scene.height
        for a, b in combinations(scene.objects, 2):
            gap = max(abs(a.x - b.x), abs(a.y - b.y)) - a.radius - b.radius
            assert gap >= 0.0149 * unit
            assert abs(a.x - b.x) >= 0.065 * unit


def test_a_caption_s_order_is_from_left_to_right() -> None:
    for seed in SEEDS:
        scene = scene_of(seed)
        assert sorted(map(id, scene.left_to_right)) == sorted(map(id, scene.objects))
        assert all(a.x < b.x for a, b in pairwise(scene.left_to_right))
        for item, seen in zip(scene.left_to_right, scene.seen, strict=True):
            assert seen.name == f"{item.size} {item.colour} {item.shape}"
            column, row = "ABCDEFGH".index(seen.cell[0]), int(seen.cell[1]) - 1
            assert column / 8 <= item.x / scene.width <= (column + 1) / 8
            assert row / 8 <= item.y / scene.height <= (row + 1) / 8


def test_cells_are_named_like_a_chessboard_s_from_the_top() -> None:
    assert [cell_name(*cell) for cell in ((0, 0), (7, 0), (0, 7), (2, 3))] == ["A1", "H1", "A8", "C4"]


def test_small_and_big_cannot_be_mistaken_within_a_picture() -> None:
    both = 0
    for seed in SEEDS:
        small, big = (
            [item.radius for item in scene_of(seed).objects if item.size == size] for size in ("small", "big")
        )
        if small and big:
            both += 1
            assert min(big) >= 1.5 * max(small)
    assert both > 100


def test_every_attribute_and_number_of_objects_occurs() -> None:
    scenes = [scene_of(seed) for seed in SEEDS]
    assert {len(scene.objects) for scene in scenes} == set(range(1, 10))
    assert {item.shape for scene in scenes for item in scene.objects} == set(SHAPES)
    assert {item.colour for scene in scenes for item in scene.objects} == set(COLOURS)
    assert {scene.background.kind for scene in scenes} == {"plain", "gradient", "noise"}


def test_every_tile_layout_occurs() -> None:
    """With tiles of 64 pixels a side."""
    scenes = [make_scene(seed) for seed in range(1000)]
    found = Counter(best_arrangement(scene.height, scene.width, 64, RATIOS) for scene in scenes)
    assert set(found) == set(RATIOS)
    assert min(found.values()) >= 20


def nearest_colour(rgb: np.ndarray) -> str:
    return min(COLOURS, key=lambda name: int(np.square(np.subtract(rgb, COLOURS[name])).sum()))


def test_pixels_round_the_centre_have_the_object_s_colour() -> None:
    stored = 0
    for seed in DRAWN:
        scene = scene_of(seed)
        stored += scene.jpeg is not None
        pixels = np.asarray(draw(scene)).astype(int)
        assert pixels.shape == (scene.height, scene.width, 3)
        for item in scene.objects:
            x, y = int(item.x), int(item.y)
            shown = pixels[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            assert np.abs(shown - item.rgb).max() <= (0 if scene.jpeg is None else 30)
            assert nearest_colour(shown) == nearest_colour(np.array(item.rgb)) == item.colour
    assert 10 < stored < 50


def test_drawn_area_tells_the_shapes_apart() -> None:
    """Areas in units of radius squared: pi; 2 x 2; 2 x 1.86 / 2; ten triangles with sides 1 and 0.42 at 36 degrees;
    two bars of 2 x 0.68 less the square where they cross."""
    expected = {
        "circle": math.pi,
        "square": 4.0,
        "triangle": 1.86,
        "star": 10 * 0.5 * 0.42 * math.sin(math.radians(36)),
        "cross": 2 * 2 * 0.68 - 0.68**2,
    }
    measured = set()
    plain = [s for s in map(scene_of, SEEDS) if s.background.kind == "plain" and s.jpeg is None]
    for scene in plain[:30]:
        ground = np.array(scene.background.first)
        pixels = np.asarray(draw(scene)).astype(int)
        for item in scene.objects:
            if min(item.radius, np.abs(ground - item.rgb).max() / 4) < 14:
                continue
            left, top = math.floor(item.x - item.radius), math.floor(item.y - item.radius)
            right, bottom = math.ceil(item.x + item.radius), math.ceil(item.y + item.radius)
            contrast = item.rgb - ground
            covered = (pixels[top:bottom, left:right] - ground) @ contrast / np.square(contrast).sum()
            assert covered.sum() / item.radius**2 == pytest.approx(expected[item.shape], rel=0.09)
            assert covered.min() > -0.03 and covered.max() < 1.03
            measured.add(item.shape)
    assert measured == set(expected)


def test_nothing_is_drawn_but_the_objects() -> None:
    for seed in DRAWN:
        scene = scene_of(seed)
        if scene.background.kind == "noise" or scene.jpeg is not None:
            continue
        empty = Scene(scene.seed, scene.width, scene.height, scene.background, ())
        changed = (np.asarray(draw(scene)) != np.asarray(draw(empty))).any(-1)
        for item in scene.objects:
            left, top = math.floor(item.x - item.radius), math.floor(item.y - item.radius)
            right, bottom = math.ceil(item.x + item.radius), math.ceil(item.y + item.radius)
            changed[top : bottom + 1, left : right + 1] = False
        assert not changed.any()


def ground_of(scene: Scene) -> np.ndarray:
    """The picture without objects and without JPEG's traces; int, shape = (height, width, 3)."""
    return np.asarray(draw(replace(scene, objects=(), jpeg=None))).astype(int)


def test_plain_grounds_are_of_one_colour() -> None:
    plain = [scene for scene in map(scene_of, SEEDS) if scene.background.kind == "plain"]
    assert len(plain) > 80
    for scene in plain[:20]:
        assert (ground_of(scene) == scene.background.first).all()


@pytest.mark.parametrize(("right", "down"), list(product((1, -1), repeat=2)))
def test_a_diagonal_gradient_runs_from_the_first_colour_to_the_second(right: int, down: int) -> None:
    first, second = (24, 24, 28), (206, 226, 236)
    angle = math.atan2(down, right)
    pixels = ground_of(Scene(0, 90, 70, Background("gradient", first, second, angle, 5.0), ()))
    begins, ends = pixels[::down, ::right][0, 0], pixels[::down, ::right][-1, -1]
    assert np.abs(begins - first).max() <= 1 and np.abs(ends - second).max() <= 1
    assert np.abs(pixels[35, 45] - np.add(first, second) / 2).max() <= 3
    assert (np.diff(pixels[::down, ::right], axis=0) >= 0).all()
    assert (np.diff(pixels[::down, ::right], axis=1) >= 0).all()


def test_gradients_lie_between_both_colours_along_their_angle() -> None:
    gradients = [scene for scene in map(scene_of, SEEDS) if scene.background.kind == "gradient"]
    assert len(gradients) > 60
    for scene in gradients[:30]:
        ground, pixels = scene.background, ground_of(scene)
        low, high = np.minimum(ground.first, ground.second), np.maximum(ground.first, ground.second)
        assert (pixels >= low).all() and (pixels <= high).all()
        across, down = (1 if turned > 0 else -1 for turned in (math.cos(ground.angle), math.sin(ground.angle)))
        turned = pixels[::down, ::across]
        change = np.subtract(ground.second, ground.first)
        assert (turned[-1, -1] - turned[0, 0]) @ change / np.square(change).sum() >= 0.7


def test_noise_is_grey_and_as_strong_as_the_scene_says() -> None:
    noisy = [scene for scene in map(scene_of, SEEDS) if scene.background.kind == "noise"]
    assert len(noisy) > 60
    measured = 0
    for scene in noisy:
        ground = scene.background
        if scene.width * scene.height < 25_000 or min(ground.first) < 60 or max(ground.first) > 200:
            continue  # too few pixels, or so dark or light that the noise is cut off
        noise = ground_of(scene) - ground.first
        assert (noise == noise[..., :1]).all()
        assert abs(noise.mean()) < 0.5
        assert noise.std() == pytest.approx(math.sqrt(ground.sigma**2 + 1 / 12), rel=0.03)
        sideways = (noise[:, 1:, 0] * noise[:, :-1, 0]).mean() / noise.var()
        assert abs(sideways) < 0.05  # a pixel's noise says nothing of its neighbour's
        measured += 1
    assert measured > 8


def test_jpeg_leaves_its_traces_the_more_the_lower_its_quality() -> None:
    stored = [scene for scene in map(scene_of, SEEDS) if scene.jpeg is not None]
    assert len(stored) > 80 and min(s.jpeg or 0 for s in stored) < 50 and max(s.jpeg or 0 for s in stored) > 80
    for scene in stored[:20]:
        clean = np.asarray(draw(replace(scene, jpeg=None))).astype(int)
        traces = [np.abs(np.asarray(draw(replace(scene, jpeg=jpeg))) - clean).mean() for jpeg in (scene.jpeg, 20, 95)]
        assert 0 < traces[0] < 12
        assert traces[1] > traces[2] > 0


def test_background_colours_are_no_object_colours() -> None:
    for ground in BACKGROUNDS:
        assert min(np.abs(np.subtract(ground, rgb)).sum() for rgb in COLOURS.values()) > 90
