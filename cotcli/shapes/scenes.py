"""Step 1: a seed -> a Scene -> a picture.

Knows where objects lie and how to draw them. Knows nothing about questions, answers, tiles or torch.
A scene is plain data; drawing it is a separate function, so that truth never depends on pixels.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("circle", "square", "triangle", "star", "cross")
SIZES = ("small", "big")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (212, 36, 36),
    "orange": (244, 134, 22),
    "yellow": (246, 218, 44),
    "green": (38, 158, 62),
    "blue": (40, 84, 214),
    "purple": (128, 46, 170),
    "pink": (252, 150, 200),
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
MAX_OBJECTS = 9
GRID = 8  # captions name an object's place as a square from A1 (top left) to H8
TRAIN_SEED_BITS = 40  # training draws seeds below 2**40
HELD_OUT_SEED = 1 << 50  # evaluation seeds start here, so that no held-out scene was ever trained on

# Radii as shares of sqrt(width * height): a gap of 1.5x lies between the largest small and the smallest big object.
_RADII = {"small": (0.067, 0.075), "big": (0.113, 0.125)}
_MIN_STEP_X = 0.065  # centres differ at least this much in x, so that "left to right" is one order and not several
_GAP = 0.015
# (width / height, most objects, how much larger they are, weight). A 2:1 picture fills half a canvas, so its objects
# are drawn larger: their centres stay a patch apart.
_ASPECTS = (
    (1.0, 9, 1.0, 10),
    (4 / 3, 9, 1.0, 4),
    (3 / 4, 9, 1.0, 3),
    (1.55, 9, 1.0, 2),
    (2.0, 6, 1.25, 2),
    (1 / 2, 4, 1.25, 2),
    (2.8, 6, 1.0, 1),
    (1 / 2.8, 3, 1.0, 1),
    (4.0, 6, 1.0, 1),
    (1 / 4, 3, 1.0, 1),
)
# Pictures of one or two tiles: (width, height, most objects, how much larger they are), in pixels. With them every tile
# layout occurs: transformers spreads larger pictures over three or four.
_SMALL_SHARE = 0.12
_SMALL = (
    ((48, 62), (48, 62), 3, 1.9),
    ((100, 128), (48, 62), 5, 1.4),
    ((48, 62), (100, 128), 3, 1.4),
)
_OBJECT_WEIGHTS = (2, 3, 4, 5, 5, 4, 3, 2, 2)
_STAR = [  # five points from the top on, within the unit circle; the inner corners at 0.42 of the radius
    (math.sin(k * math.pi / 5) * reach, -math.cos(k * math.pi / 5) * reach)
    for k in range(10)
    for reach in ((1.0, 0.42)[k % 2],)
]


@dataclass(frozen=True)
class SceneObject:
    """One shape, which fills the square of half side `radius` round (`x`, `y`) from edge to edge, all in pixels of the
    scene's own picture. `rgb` is the colour as drawn.

    `size` compares within a picture: each big object is at least 1.5 times as large as each small one. Over all
    pictures, radii of small ones are 0.067 to 0.143 of sqrt(width * height), those of big ones 0.113 to 0.238."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True)
class Background:
    """`kind` is plain, gradient or noise; `angle` in radians (gradient), `sigma` in grey levels (noise)."""

    kind: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    angle: float
    sigma: float


@dataclass(frozen=True)
class Seen:
    """An object as a caption tells it: words only, `cell` for example `C4`."""

    size: str
    colour: str
    shape: str
    cell: str

    @property
    def name(self) -> str:
        """For example `small red circle`."""
        return f"{self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """A picture's content: `width` x `height` pixels and objects in no particular order.

    `jpeg` is the quality at which the picture was stored once, None for never.
    """

    seed: int
    width: int
    height: int
    background: Background
    objects: tuple[SceneObject, ...]
    jpeg: int | None = None

    @cached_property
    def left_to_right(self) -> tuple[SceneObject, ...]:
        """The objects in the order in which captions list them."""
        return tuple(sorted(self.objects, key=lambda item: item.x))

    def cell(self, item: SceneObject) -> tuple[int, int]:
        """Column from the left and row from the top of the object's centre, 0 to GRID - 1 each."""
        return int(item.x / self.width * GRID), int(item.y / self.height * GRID)

    @cached_property
    def seen(self) -> tuple[Seen, ...]:
        """What a right caption lists, in its order."""
        return tuple(
            Seen(item.size, item.colour, item.shape, cell_name(*self.cell(item))) for item in self.left_to_right
        )


def cell_name(column: int, row: int) -> str:
    """(2, 3) -> `C4`."""
    return f"{'ABCDEFGH'[column]}{row + 1}"


def make_scene(seed: int) -> Scene:
    """The scene of a seed: 1 to `MAX_OBJECTS` objects that neither touch nor share an x. Seeded."""
    rng = random.Random(f"scene {seed}")
    if rng.random() < _SMALL_SHARE:
        across, down, most, enlarged = rng.choice(_SMALL)
        width, height = rng.randint(*across), rng.randint(*down)
    else:
        aspect, most, enlarged, _ = rng.choices(_ASPECTS, [weight for *_, weight in _ASPECTS])[0]
        aspect *= rng.uniform(0.96, 1.04)
        scale = rng.uniform(160, 340)
        width, height = round(scale * math.sqrt(aspect)), round(scale / math.sqrt(aspect))
    count = rng.choices(range(1, most + 1), _OBJECT_WEIGHTS[:most])[0]
    background = _make_background(rng)
    jpeg = rng.randint(40, 90) if rng.random() < 0.4 else None
    while True:
        objects = _place(rng, count, width, height, enlarged)
        if objects is not None:
            return Scene(seed, width, height, background, objects, jpeg)


def _make_background(rng: random.Random) -> Background:
    kind = rng.choices(("plain", "gradient", "noise"), (4, 3, 3))[0]
    first, second = rng.sample(BACKGROUNDS, 2)
    return Background(kind, first, second, rng.uniform(0, 2 * math.pi), rng.uniform(3, 12))


def _place(rng: random.Random, count: int, width: int, height: int, enlarged: float) -> tuple[SceneObject, ...] | None:
    """`count` objects without overlap, or None when the random order of placing left no room."""
    unit = math.sqrt(width * height)
    placed: list[SceneObject] = []
    for _ in range(count):
        size = rng.choice(SIZES)
        radius = rng.uniform(*_RADII[size]) * unit * enlarged
        margin = radius + 0.01 * unit
        for _ in range(40):
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
    picture = _background(scene)
    for item in scene.objects:
        _draw_object(picture, item)
    if scene.jpeg is None:
        return picture
    stored = io.BytesIO()
    picture.save(stored, "JPEG", quality=scene.jpeg)
    return Image.open(stored).convert("RGB")


def _background(scene: Scene) -> Image.Image:
    """The RGB picture without its objects."""
    ground = scene.background
    if ground.kind == "plain":
        return Image.new("RGB", (scene.width, scene.height), ground.first)
    if ground.kind == "gradient":
        across = np.linspace(-1, 1, scene.width, dtype=np.float32)[None, :] * math.cos(ground.angle)
        down = np.linspace(-1, 1, scene.height, dtype=np.float32)[:, None] * math.sin(ground.angle)
        share = ((across + down) * 90 + 127.5).astype(np.uint8)  # |across + down| <= 1.415
        ramp = np.linspace(ground.first, ground.second, 256)
        return Image.fromarray(np.rint(ramp).astype(np.uint8)[share])
    noise = np.random.default_rng(scene.seed).standard_normal((scene.height, scene.width), np.float32)
    grey = np.rint(noise * ground.sigma).astype(np.int16)[..., None]
    return Image.fromarray(np.clip(grey + np.asarray(ground.first, np.int16), 0, 255).astype(np.uint8))


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
    elif item.shape == "triangle":
        pen.polygon(((x, y - r), (x - r, y + 0.86 * r), (x + r, y + 0.86 * r)), fill=255)
    elif item.shape == "star":
        pen.polygon([(x + r * dx, y + r * dy) for dx, dy in _STAR], fill=255)
    else:
        arm = 0.34 * r
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=255)
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=255)
    picture.paste(item.rgb, (left, top), mask.reduce(oversample))
