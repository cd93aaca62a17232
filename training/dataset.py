"""Seeds -> a folder of pictures, questions and staged answers in the form of LLaVA-CoT-100k, for others to train on.

    python -m training.dataset DIR --scenes 1000 --seed 0 --questions 3

DIR/train.jsonl   a line a picture: id, image (relative to DIR) and conversations, human and gpt taking turns
DIR/truth.jsonl   a line a picture: its objects, and of each question the fields and the truth (cotcli.shapes.record)
DIR/image/        the pictures, 000000.png and so on

Knows these files. Knows nothing about models; NumPy, Pillow and tqdm are enough. The scenes are training's, so that
none of them is in a held-out set. The same command writes the same bytes.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cotcli.shapes.answers import make_answer
from cotcli.shapes.questions import Question, make_question, make_questions
from cotcli.shapes.record import Truth, truth_record
from cotcli.shapes.scenes import TRAIN_SEED_BITS, Scene, draw, make_scene
from training.arguments import between
from training.files import PART, foreign_file

TRAIN, TRUTH, IMAGES = "train.jsonl", "truth.jsonl", "image"
MAX_SCENES = 1_000_000  # file names have six digits
MAX_QUESTIONS = 64


@dataclass(frozen=True)
class Example:
    """A scene with questions about it, no two in the same words, and a staged answer to each."""

    scene: Scene
    questions: tuple[Question, ...]
    answers: tuple[str, ...]


def make_example(seed: int, index: int, questions: int) -> Example:
    """Number `index` of the data set `seed`, whatever the size of the set."""
    rng = random.Random(f"dataset {seed} {index}")
    scene = make_scene(rng.getrandbits(TRAIN_SEED_BITS))
    asked = {question.text: question for question in make_questions(scene, questions, rng.getrandbits(32))}
    while len(asked) < questions:  # two kinds that this scene lacks may both have become the same count
        question = make_question(scene, rng)
        asked.setdefault(question.text, question)
    answers = tuple(make_answer(scene.seen, question, rng) for question in asked.values())
    return Example(scene, tuple(asked.values()), answers)


def train_record(example: Example, name: str) -> dict[str, Any]:
    """The line of `train.jsonl`, with LLaVA-CoT-100k's keys; as there, the text holds no mark for the picture."""
    conversations: list[dict[str, str]] = []
    for question, answer in zip(example.questions, example.answers, strict=True):
        conversations += [{"from": "human", "value": question.text}, {"from": "gpt", "value": answer}]
    return {"id": name, "image": f"{IMAGES}/{name}.png", "conversations": conversations}


def write_dataset(folder: Path, scenes: int, seed: int, questions: int = 1) -> None:
    """Writes the data set; the two lists get their names when they are complete."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    lists = {name: folder / f"{name}{PART}" for name in (TRAIN, TRUTH)}
    with lists[TRAIN].open("w", encoding="utf-8") as train, lists[TRUTH].open("w", encoding="utf-8") as truth:
        for index in tqdm(range(scenes), unit="picture", leave=False, disable=not sys.stderr.isatty()):
            example, name = make_example(seed, index, questions), _name(index)
            draw(example.scene).save(folder / _picture(index))
            for file, record in zip((train, truth), _records(example, name), strict=True):
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
    for name, part in lists.items():
        part.replace(folder / name)


def other_set(folder: Path, scenes: int, seed: int, questions: int = 1) -> str | None:
    """A file in the folder that is not of this data set, None when there is none.

    Pictures of two sets under one list would look like one set: what a stop leaves is gone on with by the same seed and
    number of questions only, and by no fewer scenes.
    """
    firsts = _records(make_example(seed, 0, questions), _name(0))
    return foreign_file(folder, _picture, scenes, dict(zip((TRAIN, TRUTH), firsts, strict=True)))


def _records(example: Example, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The lines of both lists."""
    train = train_record(example, name)
    return train, truth_record(Truth(name, train["image"], example.scene, example.questions))


def _name(index: int) -> str:
    return f"{index:06d}"


def _picture(index: int) -> str:
    return f"{IMAGES}/{_name(index)}.png"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to write; new, empty, or from the same command")
    parser.add_argument("--scenes", type=between(1, MAX_SCENES), required=True, metavar="N", help="how many pictures")
    parser.add_argument("--seed", type=between(0, 2**63 - 1), required=True, metavar="S", help="which data set")
    parser.add_argument(
        "--questions", type=between(1, MAX_QUESTIONS), default=1, metavar="K", help="about each picture; default 1"
    )
    given = parser.parse_args(arguments)
    folder: Path = given.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (other := other_set(folder, given.scenes, given.seed, given.questions)) is not None:
            parser.error(
                f"argument DIR: {folder} holds {other}, which is not of this data set; give a new folder, or the "
                "--seed, --questions and --scenes that wrote it"
            )
        write_dataset(folder, given.scenes, given.seed, given.questions)
    except OSError as error:
        parser.error(f"cannot write to {folder}: {error.strerror or error}")
    print(f"{given.scenes} pictures with {given.scenes * given.questions} questions in {folder}")


if __name__ == "__main__":
    main()
