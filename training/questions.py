"""Step 2: a Scene -> questions with their truth.

Knows filters over objects, phrasings and lettered options. Knows nothing about pictures or about how answers are told.
Truth is computed from the scene's objects alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from training.scenes import COLOURS, SHAPES, SIZES, Scene, SceneObject

KINDS = ("count", "subtract", "compare", "exists", "attribute")
_KIND_WEIGHTS = (4, 4, 3, 3, 2)
LETTERS = "ABCD"


@dataclass(frozen=True)
class Filter:
    """A set of objects by their attributes; None leaves an attribute open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def matches(self, item: SceneObject) -> bool:
        """Whether the object belongs to the set."""
        return (
            self.size in (None, item.size) and self.colour in (None, item.colour) and self.shape in (None, item.shape)
        )

    @property
    def singular(self) -> str:
        """For example `small red circle` or `big object`."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    @property
    def plural(self) -> str:
        """For example `small red circles`."""
        return self.singular + "s"


@dataclass(frozen=True)
class Question:
    """A question as asked.

    `text` holds the options too, `filters` what it is about, `asks` the attribute asked for (attribute) or the
    relation (compare: more, fewer). `value` is the truth in words or digits, `truth` the right conclusion: the letter
    where there are options, else `value`.
    """

    kind: str
    text: str
    filters: tuple[Filter, ...]
    asks: str
    value: str
    options: tuple[str, ...]
    truth: str


_COUNT = (
    "How many {} are there?",
    "How many {} are in the picture?",
    "Count the {}.",
    "What is the number of {}?",
    "How many {} do you see?",
)
_SUBTRACT_TWO = (
    "Subtract all {}. Subtract all {}. How many objects are left?",
    "Subtract all {} and all {}. How many objects are left?",
    "Remove all {} and all {}. How many objects are left?",
    "Take away the {} and the {}. How many objects remain?",
)
_SUBTRACT_ONE = (
    "Subtract all {}. How many objects are left?",
    "Remove all {}. How many objects are left?",
    "Take away the {}. How many objects remain?",
)
_COMPARE = {
    "more": ("Are there more {} than {}?", "Is the number of {} greater than the number of {}?"),
    "fewer": ("Are there fewer {} than {}?", "Is the number of {} less than the number of {}?"),
}
_EXISTS = ("Is there a {}?", "Is there a {} in the picture?", "Do you see a {}?", "Does the picture show a {}?")
_ATTRIBUTE = ("What {asks} is the {}?", "What is the {asks} of the {}?", "Name the {asks} of the {}.")


def make_question(scene: Scene, rng: random.Random, kind: str | None = None) -> Question:
    """One question about the scene, of the given kind or a random one; `rng` decides everything else."""
    kind = kind or rng.choices(KINDS, _KIND_WEIGHTS)[0]
    if kind == "attribute":
        named = _unique_object(scene, rng)
        if named is not None:
            return _attribute(rng, *named)
        kind = "count"  # no object stands out by two of its attributes
    if kind == "count":
        found = _filter(scene, rng)
        text = rng.choice(_COUNT).format(found.plural)
        return _finish(rng, kind, text, (found,), "", str(_number(scene, found)))
    if kind == "subtract":
        return _subtract(scene, rng)
    if kind == "compare":
        return _compare(scene, rng)
    found = _filter(scene, rng, real=0.4)
    text = rng.choice(_EXISTS).format(found.singular)
    return _finish(rng, "exists", text, (found,), "", "Yes" if _number(scene, found) else "No")


def make_questions(scene: Scene, number: int, seed: int) -> tuple[Question, ...]:
    """`number` questions about the scene, of different kinds as far as there are kinds; the same for the same seed."""
    rng = random.Random(f"questions {scene.seed} {seed}")
    kinds: list[str] = []
    while len(kinds) < number:
        kind = rng.choices(KINDS, _KIND_WEIGHTS)[0]
        if kind not in kinds or len(kinds) >= len(KINDS):
            kinds.append(kind)
    return tuple(make_question(scene, rng, kind) for kind in kinds)


def _number(scene: Scene, found: Filter) -> int:
    return sum(found.matches(item) for item in scene.objects)


def _filter(scene: Scene, rng: random.Random, real: float = 0.65) -> Filter:
    """A filter on one to three attributes, with probability `real` taken from an object that is there."""
    item = rng.choice(scene.objects)
    taken = rng.random() < real
    size = item.size if taken else rng.choice(SIZES)
    colour = item.colour if taken else rng.choice(tuple(COLOURS))
    shape = item.shape if taken else rng.choice(SHAPES)
    width = rng.choices((1, 2, 3), (5, 4, 1) if real > 0.5 else (3, 5, 2))[0]
    kept = set(rng.sample(("size", "colour", "shape"), width))
    return Filter(
        size if "size" in kept else None, colour if "colour" in kept else None, shape if "shape" in kept else None
    )


def _subtract(scene: Scene, rng: random.Random) -> Question:
    first = _filter(scene, rng)
    filters: tuple[Filter, ...] = (first,)
    if rng.random() < 0.7:
        second = _filter(scene, rng)
        while second == first:
            second = _filter(scene, rng)
        filters = (first, second)
    left = sum(not any(found.matches(item) for found in filters) for item in scene.objects)
    template = rng.choice(_SUBTRACT_TWO if len(filters) == 2 else _SUBTRACT_ONE)
    text = template.format(*(found.plural for found in filters))
    return _finish(rng, "subtract", text, filters, "", str(left))


def _compare(scene: Scene, rng: random.Random) -> Question:
    """Two sets of one sort (colours, shapes or sizes), which therefore share no object."""
    item, other = rng.choice(scene.objects), rng.choice(scene.objects)
    sort = rng.choices(("size", "colour", "shape"), (1, 2, 2))[0]
    values = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES}[sort]
    first = getattr(item, sort)
    second = getattr(other, sort)
    if second == first:
        second = rng.choice([value for value in values if value != first])
    filters = (Filter(**{sort: first}), Filter(**{sort: second}))
    asks = rng.choice(("more", "fewer"))
    a, b = (_number(scene, found) for found in filters)
    holds = a > b if asks == "more" else a < b
    text = rng.choice(_COMPARE[asks]).format(filters[0].plural, filters[1].plural)
    return _finish(rng, "compare", text, filters, asks, "Yes" if holds else "No")


def _unique_object(scene: Scene, rng: random.Random) -> tuple[Filter, str, SceneObject] | None:
    """An object that two of its attributes, or one, single out, with the attribute to ask for."""
    cases: list[tuple[Filter, str, SceneObject]] = []
    for item in scene.objects:
        for found, asks in (
            (Filter(size=item.size, shape=item.shape), "colour"),
            (Filter(shape=item.shape), "colour"),
            (Filter(size=item.size, colour=item.colour), "shape"),
            (Filter(colour=item.colour), "shape"),
        ):
            if _number(scene, found) == 1:
                cases.append((found, asks, item))
    return rng.choice(cases) if cases else None


def _attribute(rng: random.Random, found: Filter, asks: str, item: SceneObject) -> Question:
    text = rng.choice(_ATTRIBUTE).format(found.singular, asks=asks)
    return _finish(rng, "attribute", text, (found,), asks, getattr(item, asks))


def _finish(rng: random.Random, kind: str, text: str, filters: tuple[Filter, ...], asks: str, value: str) -> Question:
    """Adds lettered options to two questions in five."""
    if rng.random() < 0.6:
        return Question(kind, text, filters, asks, value, (), value)
    if value in ("Yes", "No"):
        choices = ["Yes", "No"]
    elif asks:
        others = [word for word in (COLOURS if asks == "colour" else SHAPES) if word != value]
        choices = [value, *rng.sample(others, min(3, len(others)))]
    else:
        choices = [value, *rng.sample([str(n) for n in range(7) if str(n) != value], 3)]
    rng.shuffle(choices)
    lettered = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    joined = "\n" + "\n".join(lettered) if rng.random() < 0.5 else " " + " ".join(lettered)
    return Question(kind, text + joined, filters, asks, value, tuple(choices), LETTERS[choices.index(value)])
