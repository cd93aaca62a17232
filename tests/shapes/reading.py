"""A question's truth from its words and the objects' fields alone: knows nothing of filters, kinds or squares."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from cotcli.shapes.questions import STRANGERS, UNSEEN_STRANGERS
from cotcli.shapes.scenes import Scene, make_scene

Object = Mapping[str, Any]
PHRASE = re.compile(
    r"\b(?:(small|big) )?(?:(red|orange|yellow|green|blue|purple|pink) )?"
    r"(circle|square|triangle|star|cross|object)(?:s|es)?\b"
)
OUTSIDE = re.compile(rf"\b({'|'.join((*STRANGERS, *UNSEEN_STRANGERS))})(?:s|es)?\b")
scene_of = cache(make_scene)  # scenes are asked for again and again


def objects_of(scene: Scene) -> list[Object]:
    """The scene's objects as a file would hold them."""
    return [asdict(item) for item in scene.objects]


def fits(item: Object, named: tuple[str | None, ...]) -> bool:
    """Whether an object is one of those that three words (size, colour, shape or `object`) name."""
    return all(
        word in (None, "object", item[key]) for word, key in zip(named, ("size", "colour", "shape"), strict=True)
    )


def names(text: str) -> list[tuple[str | None, ...]]:
    """The sets of objects that a question speaks of, as three words each."""
    return [found.groups() for found in PHRASE.finditer(re.split(r"\sA\. ", text)[0])]


def read(text: str, objects: Sequence[Object], width: int, height: int) -> str:
    """The answer in words or digits."""
    text = re.split(r"\sA\. ", text)[0]
    if OUTSIDE.search(text):
        return "Not in this picture"
    sets = [[item for item in objects if fits(item, named)] for named in names(text)]
    attribute = re.search(r"\b(colour|shape|size)\b", text)
    if re.match(r"Subtract|Remove|Take away|Without", text):
        gone = [id(item) for taken in sets[:-1] for item in taken]
        return str(len([item for item in sets[-1] if id(item) not in gone]))
    if found := re.search(r"\b(leftmost|rightmost|topmost|lowest|largest|nearest the (\w+) (\w+) corner)\b", text):
        assert attribute
        return str(outermost(found[1], objects, width, height)[attribute[1]])
    if found := re.search(r"\b(left of|right of|above|below)\b", text):
        if not all(sets):
            return "Not in this picture"
        ((one,), (other,)) = sets
        axis = "x" if found[1].endswith("of") else "y"
        return "Yes" if (one[axis] < other[axis]) == (found[1] in ("left of", "above")) else "No"
    if found := re.search(r"\b(more|greater|fewer|less)\b", text):
        difference = len(sets[0]) - len(sets[1])
        return "Yes" if (difference > 0 if found[1] in ("more", "greater") else difference < 0) else "No"
    if re.match(r"How many|Count|What is the number", text):
        return str(len(sets[0]))
    if re.match(r"Is there|Are there|Do you see|Does the picture show|Can you find", text):
        return "Yes" if sets[0] else "No"
    assert attribute
    if not sets[0]:
        return "Not in this picture"
    (item,) = sets[0]
    return str(item[attribute[1]])


def outermost(place: str, objects: Sequence[Object], width: int, height: int) -> Object:
    """The object at an edge or corner, by its centre in pixels, or the largest."""
    return min(objects, key=lambda item: outwards(place, item, width, height))


def outwards(place: str, item: Object, width: int, height: int) -> float:
    """In pixels, smaller for objects further out."""
    straight = {"leftmost": item["x"], "rightmost": -item["x"], "topmost": item["y"], "lowest": -item["y"]}
    straight["largest"] = -item["radius"]
    if place in straight:
        return float(straight[place])
    down, across = place.removeprefix("nearest the ").split()[:2]
    return math.hypot(item["x"] - (0 if across == "left" else width), item["y"] - (0 if down == "top" else height))
