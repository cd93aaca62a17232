"""Scenes: the same seed gives the same scene and bytes; objects fit, keep apart and are drawn where the scene says."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest

from cotcli.shapes.scenes import BACKGROUNDS, COLOURS, HELD_OUT_SEED, MAX_OBJECTS, SIZES, TRAIN_SEED_BITS, draw, make_scene

SEEDS = range(150)


def test_same_seed_same_scene_and_same_bytes() -> None:
    for seed in range(12):
        first, second = make_scene(seed), make_scene(seed)
        assert first == second
        assert draw(first).tobytes() == draw(second).tobytes()
    assert len({hashlib.sha256(draw(make_scene(seed)).tobytes()).hexdigest() for seed in range(12)}) == 12


def test_held_out_seeds_lie_beyond_all_training_seeds() -> None:
    assert HELD_OUT_SEED >= 2**TRAIN_SEED_BITS


@pytest.mark.parametrize("seed", SEEDS)
def test_objects_lie_inside_and_apart(seed: int) -> None:
    scene = make_scene(seed)
    assert 1 <= len(scene.objects) <= MAX_OBJECTS
    for item in scene.objects:
        assert item.radius <= item.x <= scene.width - item.radius
        assert item.radius <= item.y <= scene.height - item.radius
    for a, b in combinations(scene.objects, 2):
        assert max(abs(a.x - b.x), abs(a.y - b.y)) > a.radius + b.radius


def test_every_small_object_is_smaller_than_every_big_one_at_one_scale() -> None:
    radii: dict[str, list[float]] = {size: [] for size in SIZES}
    for seed in SEEDS:
        scene = make_scene(seed)
        for item in scene.objects:
            radii[item.size].append(item.radius / np.sqrt(scene.width * scene.height))
    assert 1.5 * max(radii["small"]) < min(radii["big"])


def test_pixels_at_the_centre_have_the_object_s_colour() -> None:
    for seed in SEEDS:
        scene = make_scene(seed)
        pixels = np.asarray(draw(scene)).astype(int)
        assert pixels.shape == (scene.height, scene.width, 3)
        for item in scene.objects:
            assert tuple(pixels[round(item.y), round(item.x)]) == item.rgb
            distance = {name: np.abs(np.subtract(item.rgb, rgb)).sum() for name, rgb in COLOURS.items()}
            assert min(distance, key=distance.__getitem__) == item.colour


def test_drawn_area_tells_the_shapes_apart() -> None:
    """Areas in units of radius squared: circle pi, square 2^2, triangle 2 * 1.86 / 2."""
    expected = {"circle": np.pi, "square": 4.0, "triangle": 1.86}
    for seed in range(60):
        scene = make_scene(seed)
        if scene.background.kind != "plain":
            continue
        with_object = np.asarray(draw(scene)).astype(int)
        for item in scene.objects:
            r = int(np.ceil(item.radius)) + 1
            left, top = max(0, round(item.x) - r), max(0, round(item.y) - r)
            part = with_object[top : round(item.y) + r + 1, left : round(item.x) + r + 1]
            share = (part - scene.background.first) @ np.subtract(item.rgb, scene.background.first)
            covered = share / np.square(np.subtract(item.rgb, scene.background.first)).sum()
            others = any(
                abs(o.x - item.x) < r + o.radius + 1 and abs(o.y - item.y) < r + o.radius + 1
                for o in scene.objects
                if o is not item
            )
            if not others:
                assert covered.sum() / item.radius**2 == pytest.approx(expected[item.shape], rel=0.08)


def test_background_colours_are_no_object_colours() -> None:
    for ground in BACKGROUNDS:
        assert min(np.abs(np.subtract(ground, rgb)).sum() for rgb in COLOURS.values()) > 90


def test_all_tile_layouts_that_are_promised_occur() -> None:
    aspects = np.array([make_scene(seed).width / make_scene(seed).height for seed in range(300)])
    for low, high in ((0.3, 0.6), (0.6, 0.9), (0.9, 1.1), (1.1, 1.5), (1.8, 2.2), (2.5, 3.0)):
        assert ((aspects > low) & (aspects < high)).any()
