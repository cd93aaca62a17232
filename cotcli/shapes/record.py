"""A picture and the questions about it, with all that is true of them, to a JSON object and back.

Knows the form of that object, which every file that states truth has. Knows nothing about files, nor how answers are
told or checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cotcli.shapes.questions import Filter, Question
from cotcli.shapes.scenes import Background, Scene, SceneObject


@dataclass(frozen=True)
class Truth:
    """`id` and `image`, a path, are whatever the file's own name for the picture is."""

    id: str
    image: str
    scene: Scene
    questions: tuple[Question, ...]


def truth_record(truth: Truth) -> dict[str, Any]:
    """Objects come from left to right, with places and radius in pixels of the picture and their squares, A1 to H8."""
    scene = truth.scene
    return {
        "id": truth.id,
        "image": truth.image,
        "scene_seed": scene.seed,
        "width": scene.width,
        "height": scene.height,
        "background": asdict(scene.background),
        "jpeg": scene.jpeg,
        "objects": [
            {**asdict(item), "cell": seen.cell} for item, seen in zip(scene.left_to_right, scene.seen, strict=True)
        ],
        "questions": [asdict(question) for question in truth.questions],
    }


def read_truth(record: Mapping[str, Any]) -> Truth:
    """What `truth_record` made, be it that JSON has turned its tuples into lists; other keys are left alone.

    The scene's objects come from left to right.

    Raises:
        ValueError: the record is not of that form, or says of an object that it lies in another square than it does.
    """
    try:
        ground = record["background"]
        scene = Scene(
            record["scene_seed"],
            record["width"],
            record["height"],
            Background(**{**ground, "first": tuple(ground["first"]), "second": tuple(ground["second"])}),
            tuple(_object(item) for item in record["objects"]),
            record["jpeg"],
        )
        squares = [(item["cell"], seen.cell) for item, seen in zip(record["objects"], scene.seen, strict=True)]
        truth = Truth(record["id"], record["image"], scene, tuple(_question(asked) for asked in record["questions"]))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not a record of truth: {type(error).__name__} {error}") from error
    for said, computed in squares:
        if said != computed:
            raise ValueError(f"not a record of truth: an object lies in {computed}, not in {said}")
    return truth


def _object(record: Mapping[str, Any]) -> SceneObject:
    fields = {name: value for name, value in record.items() if name != "cell"}
    return SceneObject(**{**fields, "rgb": tuple(record["rgb"])})


def _question(record: Mapping[str, Any]) -> Question:
    filters = tuple(Filter(**found) for found in record["filters"])
    return Question(**{**record, "filters": filters, "options": tuple(record["options"])})
