"""Held-out scenes, each with one question, and the tally of what was answered.

Knows seeds that training never draws, folders of pictures with questions, and counting by kind. Knows nothing about
models: whoever answers, transformers or cotcli, hands in texts.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotcli.shapes.answers import Verdict, judge, make_answer
from cotcli.shapes.check import FAULTS, check
from cotcli.shapes.questions import KINDS, UNSEEN_STRANGERS, Question, make_question
from cotcli.shapes.record import Truth, truth_record
from cotcli.shapes.scenes import HELD_OUT_SEED, Scene, draw, make_scene
from training.files import foreign_file, write_whole

QUESTIONS, TRUTH = "questions.jsonl", "truth.jsonl"
MAX_ITEMS = 100_000
_SEEDS_A_SET = 1_000_000
MAX_SET = HELD_OUT_SEED // _SEEDS_A_SET - 1  # all sets end below twice HELD_OUT_SEED, where `cotcli demo` begins


@dataclass(frozen=True)
class Item:
    """A scene, one question about it, and the answer that training would have taught."""

    scene: Scene
    question: Question
    reference: str


@dataclass(frozen=True)
class Score:
    """Right and asked by kind, and how many answers were well-formed.

    `faults`: the stage at which each wrong answer first went wrong. `lucky`: right answers with a faulty stage.
    """

    right: Counter[str]
    asked: Counter[str]
    well_formed: int
    faults: Counter[str]
    lucky: int

    @property
    def accuracy(self) -> float:
        """Share of right conclusions, 0 to 1."""
        return self.right.total() / max(1, self.asked.total())

    @property
    def by_kind(self) -> dict[str, float]:
        """The same for each kind; 0 where none was asked."""
        return {kind: self.right[kind] / max(1, self.asked[kind]) for kind in KINDS}

    def lines(self) -> list[str]:
        """The table that `training.evaluate` prints."""
        right, asked = self.right.total(), self.asked.total()
        table = [_row("all", right, asked)]
        table += [_row(kind, self.right[kind], self.asked[kind]) for kind in KINDS if self.asked[kind]]
        table.append(_row("well-formed", self.well_formed, asked))
        table.append("wrong answers, by the stage that first went wrong")
        table += [_row(fault, self.faults[fault], asked - right) for fault in FAULTS]
        table.append("right answers in spite of a stage that went wrong")
        table.append(_row("any", self.lucky, right))
        return table


def _row(name: str, part: int, whole: int) -> str:
    return f"{name:<12}{part:5d} / {whole:<5d}{part / max(1, whole):8.1%}"


def held_out(number: int, seed: int = 0) -> list[Item]:
    """`number` scenes of held-out set `seed`, their questions taking turns through the kinds.

    A scene that offers no question of the kind whose turn it is gives way to the next, so that no kind is asked more
    than once more often than another.

    Raises:
        ValueError: there is no such set: its seeds would be training's, or those of `cotcli demo`.
    """
    if not 0 <= seed <= MAX_SET:
        raise ValueError(f"held-out sets are numbered from 0 to {MAX_SET}, not {seed}")
    items: list[Item] = []
    seeds = iter(range(HELD_OUT_SEED + seed * _SEEDS_A_SET, HELD_OUT_SEED + (seed + 1) * _SEEDS_A_SET))
    while len(items) < number:
        kind = KINDS[len(items) % len(KINDS)]
        scene = make_scene(next(seeds))
        rng = random.Random(f"held out {scene.seed}")
        question = make_question(scene, rng, kind, UNSEEN_STRANGERS)
        if question.kind == kind:
            items.append(Item(scene, question, make_answer(scene.seen, question, rng)))
    return items


def score(items: Sequence[Item], answers: Sequence[str]) -> tuple[Score, list[Verdict]]:
    """Judges one answer an item."""
    verdicts = [judge(answer, item.question) for item, answer in zip(items, answers, strict=True)]
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    lucky = 0
    for item, answer, verdict in zip(items, answers, verdicts, strict=True):
        asked[item.question.kind] += 1
        right[item.question.kind] += verdict.correct
        fault = check(answer, item.scene, item.question).fault
        if fault is not None and verdict.correct:
            lucky += 1
        elif fault is not None:
            faults[fault] += 1
    return Score(right, asked, sum(verdict.well_formed for verdict in verdicts), faults, lucky), verdicts


def write_folder(items: Sequence[Item], folder: Path) -> None:
    """Writes pictures, `0000.png` and so on, what is asked and what is true of them; again, the same bytes.

    `questions.jsonl`: id, image, question, kind, options, truth, answer (the reference). `truth.jsonl`: the scenes and
    questions as `cotcli.shapes.record` has them, from which `training.check` judges answers.

    Raises:
        ValueError: the folder holds something else. Nothing is written.
    """
    truths = [Truth(f"{index:04d}", _picture(index), item.scene, (item.question,)) for index, item in enumerate(items)]
    lists = {
        QUESTIONS: [_asked(truth, item) for truth, item in zip(truths, items, strict=True)],
        TRUTH: [truth_record(truth) for truth in truths],
    }
    folder.mkdir(parents=True, exist_ok=True)
    firsts = {name: records[0] for name, records in lists.items() if records}
    if (other := foreign_file(folder, _picture, len(items), firsts)) is not None:
        raise ValueError(
            f"{folder} holds {other}, which is not of this set; give a new folder, or the --seed and --scenes that "
            "wrote it"
        )
    for truth in truths:
        draw(truth.scene).save(folder / truth.image)
    for name, records in lists.items():
        write_whole(folder / name, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def _picture(index: int) -> str:
    return f"{index:04d}.png"


def _asked(truth: Truth, item: Item) -> dict[str, Any]:
    """The line of `questions.jsonl`, as `cotcli batch --questions` takes it."""
    return {
        "id": truth.id,
        "image": truth.image,
        "question": item.question.text,
        "kind": item.question.kind,
        "options": list(item.question.options),
        "truth": item.question.truth,
        "answer": item.reference,
    }
