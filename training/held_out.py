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

from cotcli.shapes.answers import Verdict, judge, make_answer
from cotcli.shapes.questions import KINDS, UNSEEN_STRANGERS, Question, make_question
from cotcli.shapes.scenes import HELD_OUT_SEED, Scene, draw, make_scene

_SEEDS_A_SET = 1_000_000


@dataclass(frozen=True)
class Item:
    """A scene, one question about it, and the answer that training would have taught."""

    scene: Scene
    question: Question
    reference: str


@dataclass(frozen=True)
class Score:
    """Right and asked by kind, and how many answers were well-formed."""

    right: Counter[str]
    asked: Counter[str]
    well_formed: int

    @property
    def accuracy(self) -> float:
        """Share of right conclusions, 0 to 1."""
        return self.right.total() / max(1, self.asked.total())

    def lines(self) -> list[str]:
        """The table that `training.evaluate` prints."""
        asked = self.asked.total()
        rows = [("all", self.right.total(), asked)]
        rows += [(kind, self.right[kind], self.asked[kind]) for kind in KINDS if self.asked[kind]]
        table = [f"{name:<12}{right:5d} / {number:<5d}{right / max(1, number):8.1%}" for name, right, number in rows]
        return [
            *table,
            f"{'well-formed':<12}{self.well_formed:5d} / {asked:<5d}{self.well_formed / max(1, asked):8.1%}",
        ]


def held_out(number: int, seed: int = 0) -> list[Item]:
    """`number` scenes of held-out set `seed`, their questions taking turns through the kinds."""
    items: list[Item] = []
    for index in range(number):
        scene = make_scene(HELD_OUT_SEED + seed * _SEEDS_A_SET + index)
        rng = random.Random(f"held out {scene.seed}")
        question = make_question(scene, rng, KINDS[index % len(KINDS)], UNSEEN_STRANGERS)
        items.append(Item(scene, question, make_answer(scene.seen, question, rng)))
    return items


def score(items: Sequence[Item], answers: Sequence[str]) -> tuple[Score, list[Verdict]]:
    """Judges one answer an item."""
    verdicts = [judge(answer, item.question) for item, answer in zip(items, answers, strict=True)]
    right: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    for item, verdict in zip(items, verdicts, strict=True):
        asked[item.question.kind] += 1
        right[item.question.kind] += verdict.correct
    return Score(right, asked, sum(verdict.well_formed for verdict in verdicts)), verdicts


def write_folder(items: Sequence[Item], folder: Path) -> None:
    """Writes `0000.png`, … and `questions.jsonl`: id, image, question, kind, options, truth, answer (the reference)."""
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    for index, item in enumerate(items):
        name = f"{index:04d}.png"
        draw(item.scene).save(folder / name)
        record = {
            "id": f"{index:04d}",
            "image": name,
            "question": item.question.text,
            "kind": item.question.kind,
            "options": list(item.question.options),
            "truth": item.question.truth,
            "answer": item.reference,
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
