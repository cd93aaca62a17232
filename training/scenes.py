"""Step 1: a seed -> a Scene -> a picture.

Knows where objects lie and how to draw them. Knows nothing about questions, answers, tiles or torch.
A scene is plain data; drawing it is a separate function, so that truth never depends on pixels.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle")
SIZES = ("small", "big")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 40, 40),
    "green": (38, 158, 62),
    "blue": (40, 84, 214),
    "yellow": (240, 204, 32),
    "purple": (146, 52, 176),
}
BACKGROUNDS: tuple[tuple[int, int, int], ...] = (
    (248, 248, 248),
    (205, 205, 205),
    (128, 128, 128),
    (74, 74, 78),
    (24, 24, 28),
    (238, 226, 204),
    (206, 226, 236),
)
MAX_OBJECTS = 6
TRAIN_SEED_BITS = 40  # training draws seeds below 2**40
HELD_OUT_SEED = 1 << 50  # evaluation seeds start here, so that no held-out scene was ever trained on

# Radii as shares of sqrt(width * height): a gap of 1.6x lies between the largest small and the smallest big object.
_RADII = {"small": (0.068, 0.076), "big": (0.122, 0.136)}
_MIN_STEP_X = 0.07  # centres differ at least this much in x, so that "left to right" is one order and not several
_GAP = 0.02
# (width / height, weight): tile layouts 2x2, 1x2, 2x1, 1x3 and 3x1 all occur; square is the common case.
_ASPECTS = ((1.0, 12), (4 / 3, 3), (3 / 4, 3), (2.0, 2), (0.5, 1), (2.8, 1), (1 / 2.5, 1))
_OBJECT_WEIGHTS = (3, 4, 5, 4, 3, 2)


@dataclass(frozen=True)
class SceneObject:
    """One shape, which fills the square of half side `radius` round (`x`, `y`) from edge to edge, all in pixels of the
    scene's own picture. `rgb` is the colour as drawn."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The words of the caption, for example `small red circle`."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Background:
    """`kind` is plain, gradient or noise; `angle` in radians (gradient), `sigma` in grey levels (noise)."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    angle: float
    sigma: float


@dataclass(frozen=True)
class Scene:
    """A picture's content: `width` x `height` pixels and objects in no particular order."""

    seed: int
    width: int
    height: int
    background: Background
    objects: tuple[SceneObject, ...]

    @cached_property
    def left_to_right(self) -> tuple[SceneObject, ...]:
        """The objects in the order in which captions list them."""
        return tuple(sorted(self.objects, key=lambda item: item.x))


def make_scene(seed: int, max_objects: int = MAX_OBJECTS) -> Scene:
    """The scene of a seed: 1 to `max_objects` objects that neither touch nor share an x. Seeded."""
    rng = random.Random(f"scene {seed}")
    aspect = rng.choices([a for a, _ in _ASPECTS], [w for _, w in _ASPECTS])[0] * rng.uniform(0.96, 1.04)
    scale = rng.uniform(200, 380)
    width, height = round(scale * math.sqrt(aspect)), round(scale / math.sqrt(aspect))
    count = rng.choices(range(1, max_objects + 1), _OBJECT_WEIGHTS[:max_objects])[0]
    if aspect < 0.6:
        count = min(count, 3)  # a narrow picture has no room for six different x
    background = _make_background(rng)
    while True:
        objects = _place(rng, count, width, height)
        if objects is not None:
            return Scene(seed, width, height, background, objects)


def _make_background(rng: random.Random) -> Background:
    kind = rng.choices(("plain", "gradient", "noise"), (4, 3, 3))[0]
    first, second = rng.sample(BACKGROUNDS, 2)
    return Background(kind, first, second, rng.uniform(0, 2 * math.pi), rng.uniform(3, 12))


def _place(rng: random.Random, count: int, width: int, height: int) -> tuple[SceneObject, ...] | None:
    """`count` objects without overlap, or None when the random order of placing left no room."""
    unit = math.sqrt(width * height)
    placed: list[SceneObject] = []
    for _ in range(count):
        size = rng.choice(SIZES)
        radius = rng.uniform(*_RADII[size]) * unit
        margin = radius + 0.01 * unit
        for _ in range(60):
            x, y = rng.uniform(margin, width - margin), rng.uniform(margin, height - margin)
            if all(
                max(abs(x - other.x), abs(y - other.y)) >= radius + other.radius + _GAP * unit
                and abs(x - other.x) >= _MIN_STEP_X * unit
                for other in placed
            ):
                colour = rng.choice(tuple(COLOURS))
                red, green, blue = (max(0, min(255, c + rng.randint(-12, 12))) for c in COLOURS[colour])
                placed.append(SceneObject(rng.choice(SHAPES), colour, size, x, y, radius, (red, green, blue)))
                break
        else:
            return None
    return tuple(placed)


def draw(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of `scene.width` x `scene.height`, edges antialiased; the same bytes each time."""
    picture = Image.fromarray(_background_pixels(scene))
    for item in scene.objects:
        _draw_object(picture, item)
    return picture


def _background_pixels(scene: Scene) -> np.ndarray:
    """uint8, shape = (height, width, 3)."""
    ground = scene.background
    first = np.asarray(ground.first, np.float32)
    if ground.kind == "gradient":
        across = np.linspace(-1, 1, scene.width, dtype=np.float32)[None, :] * math.cos(ground.angle)
        down = np.linspace(-1, 1, scene.height, dtype=np.float32)[:, None] * math.sin(ground.angle)
        share = np.clip((across + down) / 2.83 + 0.5, 0, 1)[..., None]
        pixels = first * (1 - share) + np.asarray(ground.second, np.float32) * share
    else:
        pixels = np.broadcast_to(first, (scene.height, scene.width, 3))
        if ground.kind == "noise":
            noise = np.random.default_rng(scene.seed).standard_normal(pixels.shape[:2], np.float32)
            pixels = pixels + ground.sigma * noise[..., None]
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _draw_object(picture: Image.Image, item: SceneObject, oversample: int = 4) -> None:
    """Draws on a mask `oversample` times as fine, only as large as the object, and pastes the reduced mask."""
    left, top = math.floor(item.x - item.radius) - 1, math.floor(item.y - item.radius) - 1
    side = math.ceil(2 * item.radius) + 3
    mask = Image.new("L", (side * oversample, side * oversample), 0)
    x, y, r = ((item.x - left) * oversample, (item.y - top) * oversample, item.radius * oversample)
    pen = ImageDraw.Draw(mask)
    if item.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=255)
    elif item.shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=255)
    else:
        pen.polygon(((x, y - r), (x - r, y + 0.86 * r), (x + r, y + 0.86 * r)), fill=255)
    picture.paste(item.rgb, (left, top), mask.reduce(oversample))
