"""Answers to the pictures of a folder, judged: how many are right, and at which stage the others went wrong.

    python -m training.check DIR ANSWERS.jsonl

DIR is a folder that `training.dataset` or `training.evaluate --write` has written. A line of ANSWERS.jsonl is a record
of `cotcli batch` or `cotcli ask --json`, or an object with `id`, `raw` (all that was written) and, where pictures have
several questions, `question`. An id is a picture's, or its path.

Knows these two forms and the table. Knows nothing about models; NumPy and Pillow are enough.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from cotcli.shapes.answers import judge, matches
from cotcli.shapes.check import FAULTS, check
from cotcli.shapes.questions import KINDS, Question
from cotcli.shapes.record import Truth, read_truth
from training.arguments import between
from training.held_out import MAX_ITEMS, TRUTH


@dataclass(frozen=True)
class Judged:
    """An answer to one question. `fault` is the stage that first went wrong, None for none; `detail` says how."""

    id: str
    question: Question
    right: bool
    fault: str | None
    detail: str


@dataclass
class Tally:
    """Of one kind of question: `faults` counts wrong answers by the stage, `lucky` right ones with a faulty stage."""

    asked: int = 0
    right: int = 0
    lucky: int = 0
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, judged: Judged) -> None:
        """Counts one more."""
        self.asked += 1
        self.right += judged.right
        if judged.right:
            self.lucky += judged.fault is not None
        elif judged.fault is not None:
            self.faults[judged.fault] += 1


def read_folder(folder: Path) -> list[Truth]:
    """What is true of the folder's pictures.

    Raises:
        ValueError: a line is none of `cotcli.shapes.record`.
    """
    truths: list[Truth] = []
    for where, record in _records(folder / TRUTH):
        try:
            truths.append(read_truth(record))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return truths


def judge_all(truths: Sequence[Truth], answers: Path) -> tuple[list[Judged], int]:
    """Every answer, judged, and how many questions have none: they are not there, or their record is of an error.

    Raises:
        ValueError: a line is no answer to one of these questions, or a second one.
    """
    pictures = {name: truth for truth in truths for name in (truth.id, PurePath(truth.image).name)}
    found: list[Judged] = []
    seen: dict[tuple[str, str], str] = {}
    for where, record in _records(answers):
        try:
            truth, question = _asked(pictures, record)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        earlier = seen.setdefault((truth.id, question.text), where)
        if earlier != where:
            raise ValueError(f"{where}: a second answer to the question of {earlier}")
        raw = record.get("raw")
        if isinstance(raw, str):
            found.append(_judged(truth, question, raw, record))
    return found, sum(len(truth.questions) for truth in truths) - len(found)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines with where they stand; ValueError for one that is no JSON object."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            where = f"{path}, line {number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{where}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(f"{where}: not a JSON object")
            yield where, record


def _asked(pictures: dict[str, Truth], record: dict[str, Any]) -> tuple[Truth, Question]:
    """Which picture and question a record answers."""
    name = record.get("id")
    if not isinstance(name, str):
        raise ValueError("an answer has an id, the picture's")
    plain = re.sub(r"#\d+$", "", name)  # cotcli batch numbers further questions about a picture
    truth = pictures.get(name) or pictures.get(plain) or pictures.get(PurePath(plain).name)
    if truth is None:
        raise ValueError(f"{name} is no picture of this folder")
    text = record.get("question")
    if text is None and len(truth.questions) == 1:
        return truth, truth.questions[0]
    for question in truth.questions:
        if question.text == text:
            return truth, question
    if text is None:
        raise ValueError(f"{name} has {len(truth.questions)} questions: an answer must give its own")
    raise ValueError(f"{name} has no such question: {text}")


def _judged(truth: Truth, question: Question, raw: str, record: dict[str, Any]) -> Judged:
    """By the conclusion as cotcli parsed it, where a record has that; else by the raw text's."""
    answer = record.get("answer")
    if isinstance(answer, str):
        right = record.get("ok") is not False and matches(answer, question.truth, question.options)
    else:
        right = judge(raw, question).correct
    checked = check(raw, truth.scene, question)
    return Judged(record["id"], question, right, checked.fault, checked.detail)


def table(judged: Sequence[Judged]) -> list[str]:
    """Right answers by kind; the wrong ones by the stage that first went wrong; right ones in spite of one that did."""
    whole, kinds = Tally(), {kind: Tally() for kind in KINDS}
    for one in judged:
        whole.add(one)
        kinds[one.question.kind].add(one)
    heads = "".join(f"{fault:>12}" for fault in FAULTS)
    lines = [f"{'':<12}{'right':>21}{heads}{'lucky':>8}"]
    for kind, tally in (("all", whole), *kinds.items()):
        if tally.asked:
            share = f"{tally.right:5d} / {tally.asked:<5d}{tally.right / tally.asked:8.1%}"
            lines.append(
                f"{kind:<12}{share}{''.join(f'{tally.faults[fault]:12d}' for fault in FAULTS)}{tally.lucky:8d}"
            )
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Columns: wrong answers by the stage that first went wrong; lucky: right ones with a stage that did.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a folder with pictures and truth.jsonl")
    parser.add_argument("answers", type=Path, metavar="ANSWERS.jsonl")
    parser.add_argument(
        "--show-wrong", type=between(0, MAX_ITEMS), default=0, metavar="N", help="say of N wrong answers what is wrong"
    )
    given = parser.parse_args(arguments)
    try:
        judged, without = judge_all(read_folder(given.folder), given.answers)
    except OSError as error:
        parser.error(f"cannot read {error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    print("\n".join(table(judged)))
    if without:
        print(f"without an answer: {without}")
    for one in [one for one in judged if not one.right][: given.show_wrong]:
        print(f"{one.id}: {' '.join(one.question.text.split())} {one.detail}; the truth is {one.question.truth}")


if __name__ == "__main__":
    main()
