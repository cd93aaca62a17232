"""How fast answers come when several are written at once.

    python -m benchmarks.parallel demo --parallel 1 2 4 8 --pictures 16
    python -m benchmarks.parallel PAIR --parallel 1 2 4 8 --pictures 1 --questions 8 --max-tokens 32

Asks the same questions about the same drawn pictures with each number of answers at once, greedy, in one process, the
numbers taking turns. For each: tokens and answers by time, medians over the rounds; tokens by the time that was not
spent in the vision tower, which takes one picture at a time; and how many texts are those of the first number. Exits
with 1 if any is not.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from cotcli.answer import Answer, GenerationParams
from cotcli.generate import Reasoner, Request, load
from cotcli.shapes.questions import KINDS, make_question
from cotcli.shapes.scenes import HELD_OUT_SEED, draw, make_scene

_FIRST_SEED = 5 * HELD_OUT_SEED


class TowerClock:
    """Adds up the seconds from the first to the last report of a picture's encoding."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        """A model's ``on_progress``."""
        if phase == "image":
            now = time.perf_counter()
            self._begun = now if done == 0 else self._begun
            self.seconds += now - self._begun if done == total else 0.0


@dataclass
class Runs:
    """What was seen with one number of answers at once, a value a round."""

    tokens_a_second: list[float] = field(default_factory=list)
    answers_a_minute: list[float] = field(default_factory=list)
    without_tower: list[float] = field(default_factory=list)
    same: int = 0


def make_requests(pictures: int, questions: int, max_tokens: int) -> list[Request]:
    """Questions about drawn scenes, those about one picture in a row."""
    params = GenerationParams(temperature=0.0, max_tokens=max_tokens)
    requests = []
    for number in range(pictures):
        scene = make_scene(_FIRST_SEED + number)
        picture = draw(scene)
        for kind in range(questions):
            question = make_question(scene, random.Random(f"{number} {kind}"), KINDS[(number + kind) % len(KINDS)])
            requests.append(Request(picture, question.text, params, key=(number, kind)))
    return requests


def run(model: Reasoner, clock: TowerClock, requests: list[Request], parallel: int, runs: Runs) -> dict[object, str]:
    """Asks everything once; the texts by key."""
    clock.seconds = 0.0
    begin = time.perf_counter()
    answers: dict[object, Answer] = {}
    for request, item in model.stream_all(requests, parallel):
        if isinstance(item, Exception):
            raise item
        if isinstance(item, Answer):
            answers[request.key] = item
    seconds = time.perf_counter() - begin
    tokens = sum(answer.usage.completion_tokens for answer in answers.values())
    runs.tokens_a_second.append(tokens / seconds)
    runs.answers_a_minute.append(60 * len(answers) / seconds)
    runs.without_tower.append(tokens / (seconds - clock.seconds))
    return {key: answer.raw for key, answer in answers.items()}


def measure(
    model: str,
    requests: list[Request],
    numbers: Sequence[int],
    rounds: int,
    *,
    context: int = 1024,
    threads: int | None = None,
    repack: bool = False,
    image_cache: bool = False,
) -> tuple[dict[int, Runs], int]:
    """What was seen with each number of answers at once, and how many texts were compared with the first's."""
    results = {parallel: Runs() for parallel in numbers}
    texts: dict[object, str] = {}
    clock = TowerClock()
    with load(
        model,
        gpu_layers=0,
        threads=threads,
        context_length=context,
        max_sequences=max(numbers),
        repack=repack,
        image_cache=image_cache,
        on_progress=clock,
    ) as reasoner:
        for _ in range(rounds):
            for parallel, runs in results.items():
                written = run(reasoner, clock, requests, parallel, runs)
                texts = texts or written
                runs.same += sum(written[key] == text for key, text in texts.items())
    return results, rounds * len(requests)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("--parallel", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--pictures", type=int, default=16)
    parser.add_argument("--questions", type=int, default=1, help="about each picture")
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ctx", type=int, default=1024, help="for each answer")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--image-cache", action="store_true", help="keep encoded pictures on disk, as commands do")
    parser.add_argument("--repack", action="store_true", help="as cotcli batch --repack")
    given = parser.parse_args()
    results, asked = measure(
        given.model,
        make_requests(given.pictures, given.questions, given.max_tokens),
        given.parallel,
        given.rounds,
        context=given.ctx,
        threads=given.threads,
        repack=given.repack,
        image_cache=given.image_cache,
    )
    table = Table("at once", "tokens/s", "least-most", "ratio", "answers/min", "tokens/s without tower", "same texts")
    first = statistics.median(results[given.parallel[0]].tokens_a_second)
    for parallel, runs in results.items():
        rate = statistics.median(runs.tokens_a_second)
        table.add_row(
            str(parallel),
            f"{rate:.2f}",
            f"{min(runs.tokens_a_second):.2f}-{max(runs.tokens_a_second):.2f}",
            f"{rate / first:.2f}",
            f"{statistics.median(runs.answers_a_minute):.2f}",
            f"{statistics.median(runs.without_tower):.2f}",
            f"{runs.same}/{asked}",
        )
    Console(width=120).print(table)
    return int(any(runs.same != asked for runs in results.values()))


if __name__ == "__main__":
    sys.exit(main())
