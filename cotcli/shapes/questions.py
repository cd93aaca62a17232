"""Step 2: a Scene -> questions with their truth.

Knows filters over objects, places, phrasings and lettered options. Knows nothing about pictures or about how answers
are told. Truth is computed from the scene's objects alone, and a question about places is asked only where the truth
is plain to the eye.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cotcli.shapes.scenes import COLOURS, GRID, SHAPES, SIZES, Scene, SceneObject, Seen

KINDS = ("count", "subtract", "compare", "exists", "attribute", "relation", "extreme", "absent")
_KIND_WEIGHTS = (3, 4, 3, 2, 4, 6, 7, 4)  # more of those that look things up: they are learned last
LETTERS = "ABCD"
ATTRIBUTES: dict[str, tuple[str, ...]] = {"size": SIZES, "colour": tuple(COLOURS), "shape": SHAPES}
NOT_HERE = "Not in this picture"


@dataclass(frozen=True)
class Filter:
    """A set of objects by their attributes; None leaves an attribute open."""

    size: str | None = None
    colour: str | None = None
    shape: str | None = None

    def matches(self, item: SceneObject | Seen) -> bool:
        """Whether the object belongs to the set."""
        return (
            self.size in (None, item.size) and self.colour in (None, item.colour) and self.shape in (None, item.shape)
        )

    @property
    def words(self) -> str:
        """What it asks of an object, for example `red circle` or `big`; `object` if it asks nothing."""
        return " ".join(word for word in (self.size, self.colour, self.shape) if word) or "object"

    @property
    def singular(self) -> str:
        """For example `small red circle` or `big object`."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    @property
    def plural(self) -> str:
        """For example `small red circles`."""
        return plural(self.singular)


@dataclass(frozen=True)
class Question:
    """A question as asked.

    `text` holds the options too. `filters` are the sets of objects it is about, in the order of the text; there are
    none if it names a thing outside the world. `asks` is the attribute asked for (attribute, extreme, absent), the
    relation (compare: more, fewer; relation, absent: left, right, above, below) or what is counted of the objects left
    (subtract: `of the second` when the last filter is what is counted, else empty). `place` is the extreme: leftmost,
    rightmost, topmost, lowest, largest or a corner such as `top left`. `value` is the truth in words or digits, `truth`
    the right conclusion: the letter where there are options, else `value`.
    """

    kind: str
    text: str
    filters: tuple[Filter, ...]
    asks: str
    place: str
    value: str
    options: tuple[str, ...]
    truth: str


COUNTED = "of the second"
CORNERS: dict[str, tuple[int, int]] = {
    "top left": (0, 0),
    "top right": (GRID - 1, 0),
    "bottom left": (0, GRID - 1),
    "bottom right": (GRID - 1, GRID - 1),
}
_COUNT = (
    "How many {} are there?",
    "How many {} are in the picture?",
    "Count the {}.",
    "What is the number of {}?",
    "How many {} do you see?",
    "How many {} can you find?",
)
_SUBTRACT_TWO = (
    "Subtract all {}. Subtract all {}. How many objects are left?",
    "Subtract all {} and all {}. How many objects are left?",
    "Remove all {} and all {}. How many objects are left?",
    "Take away the {} and the {}. How many objects remain?",
    "Without the {} and the {}, how many objects are left?",
)
_SUBTRACT_ONE = (
    "Subtract all {}. How many objects are left?",
    "Remove all {}. How many objects are left?",
    "Take away the {}. How many objects remain?",
    "Without the {}, how many objects are left?",
)
_SUBTRACT_THEN = (
    "Subtract all {}. How many {} are left?",
    "Remove all {}. How many {} are left?",
    "Take away the {}. How many {} remain?",
    "Without the {}, how many {} are left?",
)
_COMPARE = {
    "more": (
        "Are there more {} than {}?",
        "Is the number of {} greater than the number of {}?",
        "Count the {} and the {}. Are there more of the first?",
    ),
    "fewer": (
        "Are there fewer {} than {}?",
        "Is the number of {} less than the number of {}?",
        "Count the {} and the {}. Are there fewer of the first?",
    ),
}
_EXISTS = (
    "Is there {one}?",
    "Is there {one} in the picture?",
    "Do you see {one}?",
    "Does the picture show {one}?",
    "Can you find {one}?",
    "Are there any {many}?",
    "Are there {many} in the picture?",
    "Do you see any {many}?",
)
_ATTRIBUTE = (
    "What {asks} is the {}?",
    "What is the {asks} of the {}?",
    "Name the {asks} of the {}.",
    "Which {asks} does the {} have?",
)
_RELATION = (
    "Is the {} {relation} the {}?",
    "Does the {} lie {relation} the {}?",
    "Is it true that the {} is {relation} the {}?",
)
RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
_EXTREME = (
    "What {asks} is {the_object}?",
    "What is the {asks} of {the_object}?",
    "Name the {asks} of {the_object}.",
    "Which {asks} does {the_object} have?",
)
# Things outside the world, none of which is another word for what is in it, as "rectangle" is for a square. Training
# asks about the first list; the second is for held-out questions only.
STRANGERS = (
    *("dog", "cat", "horse", "bird", "duck", "cow", "goat", "elephant", "lion", "bear", "rabbit", "snake"),
    *("car", "van", "train", "bicycle", "boat", "plane", "truck", "road", "bridge", "ship", "wheel", "street"),
    *("king", "farmer", "doctor", "singer", "girl", "boy", "player", "face", "hand", "crowd", "nurse", "teacher"),
    *("tree", "flower", "house", "window", "door", "table", "chair", "lamp", "bottle", "cup", "plate", "book"),
    *("phone", "clock", "shirt", "hat", "shoe", "bag", "apple", "banana", "carrot", "cake", "mountain", "river"),
    *("spiral", "hexagon", "heart", "arrow", "cube", "moon", "cloud", "sun"),
    *(f"{colour} {shape}" for colour in ("black", "white", "grey", "brown") for shape in SHAPES),
)
UNSEEN_STRANGERS = (
    *("giraffe", "panda", "tractor", "ladder", "guitar", "sofa", "spoon", "castle", "pumpkin", "violin", "kite"),
    *("candle", "island", "robot", "pizza", "helmet", "pentagon", "crescent", "octagon"),
    *("silver star", "beige circle", "beige square", "turquoise triangle"),
)
_OUTSIDE = (
    "What is the {} doing?",
    "Where is the {}?",
    "Who is with the {}?",
    "What is on the {}?",
    "Describe the {}.",
    "How old is the {}?",
    "What is next to the {}?",
    "Is the {} big or small?",
)


def make_question(
    scene: Scene, rng: random.Random, kind: str | None = None, strangers: Sequence[str] = STRANGERS
) -> Question:
    """One question about the scene, of the given kind or a random one; `rng` decides everything else.

    A kind that the scene offers no question of (an attribute when no object stands out) becomes a count.
    """
    kind = kind or rng.choices(KINDS, _KIND_WEIGHTS)[0]
    question: Question | None
    if kind == "attribute":
        question = _attribute(scene, rng)
    elif kind == "relation":
        question = _relation(scene, rng)
    elif kind == "extreme":
        question = _extreme(scene, rng)
    elif kind == "absent":
        question = _absent(scene, rng, strangers)
    elif kind == "subtract":
        question = _subtract(scene, rng)
    elif kind == "compare":
        question = _compare(scene, rng)
    elif kind == "exists":
        found = _filter(scene, rng, real=0.4)
        text = rng.choice(_EXISTS).format(one=with_article(found.singular), many=found.plural)
        question = _finish(rng, kind, text, (found,), "Yes" if _number(scene, found) else "No")
    else:
        question = None
    return question or _count(scene, rng)


def make_questions(scene: Scene, number: int, seed: int) -> tuple[Question, ...]:
    """`number` questions about the scene, of different kinds as far as there are kinds; the same for the same seed."""
    rng = random.Random(f"questions {scene.seed} {seed}")
    kinds: list[str] = []
    while len(kinds) < number:
        kind = rng.choices(KINDS, _KIND_WEIGHTS)[0]
        if kind not in kinds or len(kinds) >= len(KINDS):
            kinds.append(kind)
    return tuple(make_question(scene, rng, kind) for kind in kinds)


def with_article(words: str) -> str:
    """`a red star`, `an orange star`."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def plural(words: str) -> str:
    """`red stars`, `red crosses`."""
    return words + ("es" if words.endswith(("s", "x", "ch", "sh")) else "s")


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
    kept = set(rng.sample(tuple(ATTRIBUTES), width))
    return Filter(
        size if "size" in kept else None, colour if "colour" in kept else None, shape if "shape" in kept else None
    )


def _count(scene: Scene, rng: random.Random) -> Question:
    found = Filter() if rng.random() < 0.08 else _filter(scene, rng)
    text = rng.choice(_COUNT).format(found.plural)
    return _finish(rng, "count", text, (found,), str(_number(scene, found)))


def _subtract(scene: Scene, rng: random.Random) -> Question:
    """One set taken away, or two, or one taken away and another counted among the rest."""
    form = rng.choices(("one", "two", "then"), (3, 5, 3))[0]
    first = _filter(scene, rng)
    if form == "one":
        return _finish(
            rng, "subtract", rng.choice(_SUBTRACT_ONE).format(first.plural), (first,), str(_left(scene, (first,)))
        )
    second = _filter(scene, rng)
    while second == first:
        second = _filter(scene, rng)
    template = rng.choice(_SUBTRACT_TWO if form == "two" else _SUBTRACT_THEN)
    text = template.format(first.plural, second.plural)
    if form == "two":
        return _finish(rng, "subtract", text, (first, second), str(_left(scene, (first, second))))
    left = sum(second.matches(item) and not first.matches(item) for item in scene.objects)
    return _finish(rng, "subtract", text, (first, second), str(left), asks=COUNTED)


def _left(scene: Scene, removed: tuple[Filter, ...]) -> int:
    return sum(not any(found.matches(item) for found in removed) for item in scene.objects)


def _compare(scene: Scene, rng: random.Random) -> Question:
    """Two sets of one sort (colours, shapes or sizes), which therefore share no object."""
    item, other = rng.choice(scene.objects), rng.choice(scene.objects)
    sort = rng.choices(tuple(ATTRIBUTES), (1, 2, 2))[0]
    values = ATTRIBUTES[sort]
    first = getattr(item, sort)
    second = getattr(other, sort)
    if second == first:
        second = rng.choice([value for value in values if value != first])
    filters = (Filter(**{sort: first}), Filter(**{sort: second}))
    asks = rng.choice(("more", "fewer"))
    a, b = (_number(scene, found) for found in filters)
    holds = a > b if asks == "more" else a < b
    text = rng.choice(_COMPARE[asks]).format(filters[0].plural, filters[1].plural)
    return _finish(rng, "compare", text, filters, "Yes" if holds else "No", asks=asks)


def _names(scene: Scene, item: SceneObject) -> list[Filter]:
    """The ways to name the object, by two of its attributes or one, that fit no other."""
    ways = (
        Filter(size=item.size, shape=item.shape),
        Filter(shape=item.shape),
        Filter(size=item.size, colour=item.colour),
        Filter(colour=item.colour),
        Filter(colour=item.colour, shape=item.shape),
    )
    return [found for found in ways if _number(scene, found) == 1]


def _attribute(scene: Scene, rng: random.Random) -> Question | None:
    """The colour, shape or size of an object that its other attributes single out."""
    cases = [
        (found, asks, item)
        for item in scene.objects
        for found in _names(scene, item)
        for asks in ATTRIBUTES
        if getattr(found, asks) is None
    ]
    if not cases:
        return None
    found, asks, item = rng.choice(cases)
    text = rng.choice(_ATTRIBUTE).format(found.singular, asks=asks)
    return _finish(rng, "attribute", text, (found,), getattr(item, asks), asks=asks)


def _relation(scene: Scene, rng: random.Random) -> Question | None:
    """Whether one named object lies left of, right of, above or below another; asked where they clearly differ."""
    named = [(item, ways) for item in scene.objects if (ways := _names(scene, item))]
    if len(named) < 2:
        return None
    for _ in range(8):
        (one, its_ways), (other, other_ways) = rng.sample(named, 2)
        across = rng.random() < 0.5
        a, b = (scene.cell(item)[0 if across else 1] for item in (one, other))
        apart = abs(one.x - other.x) / scene.width if across else abs(one.y - other.y) / scene.height
        if a == b or apart < 0.1:
            continue
        asks = rng.choice(("left", "right") if across else ("above", "below"))
        holds = (a < b) == (asks in ("left", "above"))
        filters = (rng.choice(its_ways), rng.choice(other_ways))
        text = rng.choice(_RELATION).format(*(found.singular for found in filters), relation=RELATIONS[asks])
        return _finish(rng, "relation", text, filters, "Yes" if holds else "No", asks=asks)
    return None


def _extreme(scene: Scene, rng: random.Random) -> Question | None:
    """The colour, shape or size of the object at an edge of the scene, nearest a corner, or largest."""
    for _ in range(6):
        place = rng.choice(
            (
                *("leftmost", "rightmost", "topmost", "lowest"),
                *("largest", "largest"),
                *rng.sample(tuple(CORNERS), 2),
            )
        )
        item = _at(scene, place)
        if item is None:
            continue
        asks = rng.choice([word for word in ATTRIBUTES if (place, word) != ("largest", "size")])
        text = rng.choice(_EXTREME).format(asks=asks, the_object=the_object(place))
        filters = (Filter(size="big"),) if place == "largest" else ()
        return _finish(rng, "extreme", text, filters, getattr(item, asks), asks=asks, place=place)
    return None


def the_object(place: str) -> str:
    """`the topmost object`, `the object nearest the top left corner`."""
    return f"the object nearest the {place} corner" if place in CORNERS else f"the {place} object"


def steps_to_corner(column: int, row: int, place: str) -> tuple[int, int]:
    """Columns and rows between a cell and a corner's."""
    corner = CORNERS[place]
    return abs(column - corner[0]), abs(row - corner[1])


def _at(scene: Scene, place: str) -> SceneObject | None:
    """The object at that place, None when no object is there plainly."""
    if place == "largest":
        big = [item for item in scene.objects if item.size == "big"]
        return big[0] if len(big) == 1 else None
    if len(scene.objects) == 1:
        return None
    if place in ("leftmost", "rightmost"):
        first = scene.left_to_right[0 if place == "leftmost" else -1]
        sign = 1 if place == "leftmost" else -1
        return first if first is min(scene.objects, key=lambda item: sign * item.x - item.radius) else None
    if place in ("topmost", "lowest"):
        sign = 1 if place == "topmost" else -1
        first, second = sorted(scene.objects, key=lambda item: sign * item.y)[:2]
        plain = scene.cell(first)[1] != scene.cell(second)[1] and abs(first.y - second.y) > 0.06 * scene.height
        by_edge = min(scene.objects, key=lambda item: sign * item.y - item.radius)
        return first if plain and first is by_edge else None
    corner_x, corner_y = (0 if column == 0 else 1 for column in CORNERS[place])

    def distance(item: SceneObject) -> float:
        return math.hypot(item.x / scene.width - corner_x, item.y / scene.height - corner_y)

    first, second = sorted(scene.objects, key=distance)[:2]
    steps = [sum(steps_to_corner(*scene.cell(item), place)) for item in scene.objects]
    nearest = sum(steps_to_corner(*scene.cell(first), place))
    plain = nearest == min(steps) and steps.count(nearest) == 1 and distance(first) < distance(second) - 0.08

    def pixels(item: SceneObject) -> float:
        return math.hypot(item.x - corner_x * scene.width, item.y - corner_y * scene.height)

    # The eye measures in pixels and the reasoning in cells: both must name the same object.
    others = min(pixels(item) for item in scene.objects if item is not first)
    return first if plain and pixels(first) < others - 0.08 * math.sqrt(scene.width * scene.height) else None


def _absent(scene: Scene, rng: random.Random, strangers: Sequence[str]) -> Question | None:
    """A question about what is not there: a thing outside the world, or an object that this scene lacks."""
    form = rng.choices(("outside", "attribute", "relation"), (2, 1, 1))[0]
    if form == "outside":
        return _finish(rng, "absent", _outside(scene, rng, strangers), (), NOT_HERE)
    named = [ways for item in scene.objects if (ways := _names(scene, item))]
    for _ in range(8):
        found = _filter(scene, rng, real=0.1)
        if _number(scene, found):
            continue
        if form == "attribute":
            open_to = [word for word in ATTRIBUTES if getattr(found, word) is None]
            if open_to:
                asks = rng.choice(open_to)
                text = rng.choice(_ATTRIBUTE).format(found.singular, asks=asks)
                return _finish(rng, "absent", text, (found,), NOT_HERE, asks=asks)
        elif named:
            filters = [found, rng.choice(rng.choice(named))]
            rng.shuffle(filters)
            asks = rng.choice(tuple(RELATIONS))
            text = rng.choice(_RELATION).format(*(each.singular for each in filters), relation=RELATIONS[asks])
            return _finish(rng, "absent", text, tuple(filters), NOT_HERE, asks=asks)
    return None


def _outside(scene: Scene, rng: random.Random, strangers: Sequence[str]) -> str:
    """Words that ask about a thing outside the world, as one asks about objects of it, or otherwise."""
    thing = rng.choice(strangers)
    if " " not in thing and rng.random() < 0.25:
        thing = f"{rng.choice((*SIZES, *COLOURS))} {thing}"
    asks, relation = rng.choice(tuple(ATTRIBUTES)), rng.choice(tuple(RELATIONS.values()))
    one_thing = (_OUTSIDE, _EXISTS, _ATTRIBUTE)
    things = (_COUNT, _SUBTRACT_ONE)
    pairs = (_SUBTRACT_TWO, _SUBTRACT_THEN, *_COMPARE.values())
    form = rng.choices((*one_thing, *things, *pairs, _RELATION), (6, 4, 3, 2, 1, 1, 1, 1, 1, 3))[0]
    both = [thing, _filter(scene, rng).singular]
    rng.shuffle(both)
    names = both if form in pairs or form is _RELATION else [thing]
    if form in pairs or form in things:
        names = [plural(name) for name in names]
    return rng.choice(form).format(*names, asks=asks, relation=relation, one=with_article(thing), many=plural(thing))


def _finish(
    rng: random.Random,
    kind: str,
    text: str,
    filters: tuple[Filter, ...],
    value: str,
    *,
    asks: str = "",
    place: str = "",
) -> Question:
    """Adds lettered options to two questions in five; none to a question about what is not there."""
    if rng.random() < 0.6 or kind == "absent":
        return Question(kind, text, filters, asks, place, value, (), value)
    if value in ("Yes", "No"):
        choices = ["Yes", "No"]
    elif asks in ATTRIBUTES:
        others = [word for word in ATTRIBUTES[asks] if word != value]
        choices = [value, *rng.sample(others, min(3, len(others)))]
    else:
        choices = [value, *rng.sample([str(n) for n in range(10) if str(n) != value], 3)]
    rng.shuffle(choices)
    lettered = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    joined = "\n" + "\n".join(lettered) if rng.random() < 0.5 else " " + " ".join(lettered)
    truth = LETTERS[choices.index(value)]
    return Question(kind, text + joined, filters, asks, place, value, tuple(choices), truth)
