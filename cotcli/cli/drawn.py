"""A seed -> a picture that no training has seen, a question about it and its truth; and the folder that keeps them.

Knows the bundled model's world. Knows nothing about the model, nor how any of it is shown. Importing it imports NumPy
and Pillow, so `demo` does that only when it runs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL.Image import Image

from cotcli.errors import ResourceError, UsageError
from cotcli.shapes.answers import matches
from cotcli.shapes.check import check
from cotcli.shapes.questions import KINDS, NOT_HERE, UNSEEN_STRANGERS, Question, make_question
from cotcli.shapes.record import Truth, truth_record
from cotcli.shapes.scenes import HELD_OUT_SEED, Scene, draw, make_scene

FIRST_SEED = 2 * HELD_OUT_SEED
"""Scene of seed 0. Training draws below 2**40, and evaluation counts up from `HELD_OUT_SEED`: neither comes here."""
PICTURE, QUESTION, ANSWER = "picture.png", "question.json", "answer.json"
_TRIES = 16


@dataclass(frozen=True)
class Drawn:
    """What is asked about what. `question` is None, and no truth known, where the user asks a `text` of their own."""

    seed: int
    scene: Scene
    text: str
    question: Question | None

    @cached_property
    def picture(self) -> Image:
        """In RGB."""
        return draw(self.scene)

    @cached_property
    def png(self) -> bytes:
        """The picture as a file."""
        file = io.BytesIO()
        self.picture.save(file, "PNG")
        return file.getvalue()

    @property
    def name(self) -> str:
        """What records call the picture while it is in no file."""
        return f"demo:{self.seed}"

    @property
    def command(self) -> str:
        """What asks this again."""
        about = ("--kind", self.question.kind) if self.question else ("--question", self.text)
        return shlex.join(["cotcli", "demo", "--new", str(self.seed), *about])


def draw_one(seed: int, kind: str | None = None, text: str | None = None) -> Drawn:
    """The picture of a seed, with a text of the user's or else a question of that kind, or of one that the seed draws.

    Raises:
        UsageError: the picture offers no question of that kind.
    """
    scene = make_scene(FIRST_SEED + seed)
    if text is not None:
        return Drawn(seed, scene, text, None)
    offered = questions(scene)
    kind = kind or random.Random(f"demo kind {scene.seed}").choice(list(offered))
    if kind not in offered:
        raise UsageError(f"picture {seed} offers no question of kind {kind}", f"It offers {', '.join(offered)}")
    return Drawn(seed, scene, offered[kind].text, offered[kind])


def questions(scene: Scene) -> dict[str, Question]:
    """A question of each kind that the scene offers; the same ones each time."""
    offered: dict[str, Question] = {}
    for kind in KINDS:
        rng = random.Random(f"demo {kind} {scene.seed}")
        for _ in range(_TRIES):
            question = make_question(scene, rng, kind, UNSEEN_STRANGERS)
            if question.kind == kind:
                offered[kind] = question
                break
    return offered


def verdict(scene: Scene, question: Question, raw: str, conclusion: str) -> tuple[bool, str]:
    """Whether an answer's conclusion is the truth; then the truth, and the first mistake there is, in words.

    Args:
        raw: all that the model wrote.
        conclusion: what the user is shown of it as the answer, however its tags are broken.
    """
    value = f'"{question.value}"' if question.value == NOT_HERE else question.value
    told = f"the truth is {value}" if question.truth == question.value else f"the truth is {question.truth} ({value})"
    right = matches(conclusion, question.truth, question.options)
    mistake = check(raw, scene, question).detail
    if not mistake:
        return right, told
    return right, f"{told}; {'yet a mistake on the way' if right else 'first mistake'}: {mistake}"


def describe(drawn: Drawn) -> dict[str, Any]:
    """All there is to know of it, as JSON: how to ask it again, and the truth as `cotcli.shapes.record` reads it."""
    questions = (drawn.question,) if drawn.question else ()
    return {
        "command": drawn.command,
        "seed": drawn.seed,
        "sha256": hashlib.sha256(drawn.png).hexdigest(),
        "question": drawn.text,
        **truth_record(Truth(drawn.name, PICTURE, drawn.scene, questions)),
    }


def keep(drawn: Drawn, folder: Path) -> None:
    """Writes the picture and what is known of it, and sees that the answer can be written too.

    What an earlier run has kept of the same picture and question is replaced; other files are left alone.

    Raises:
        UsageError: the folder keeps something else under one of the names. Nothing is written.
        ResourceError: the folder cannot be made, read or written.
    """
    files = {PICTURE: drawn.png, QUESTION: _json(describe(drawn))}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [name for name, data in files.items() if _differs(folder / name, data)]
        if os.path.lexists(folder / ANSWER) and not ((folder / QUESTION).exists() and (folder / ANSWER).is_file()):
            taken.append(ANSWER)
    except OSError as error:
        raise _cannot(folder, error) from error
    if taken:
        raise UsageError(
            f"{folder / taken[0]} is already there and of something else", "Keep this one elsewhere: --save DIR"
        )
    for name, data in files.items():
        _write(folder / name, data)


def keep_answer(record: dict[str, Any], folder: Path) -> None:
    """Writes the record beside the picture.

    Raises:
        ResourceError: it cannot be written.
    """
    _write(folder / ANSWER, _json(record))


def _json(value: dict[str, Any]) -> bytes:
    """A path or question of odd bytes comes out escaped, as on stdout."""
    return (json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2) + "\n").encode("utf-8", "backslashreplace")


def _differs(path: Path, data: bytes) -> bool:
    """Whether there is something else at this path."""
    return os.path.lexists(path) and (not path.is_file() or path.read_bytes() != data)


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: half a file would look like someone else's."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise _cannot(path.parent, error) from error


def _cannot(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(f"cannot write to {folder}: {error.strerror or error}", "Keep it elsewhere: --save DIR")
