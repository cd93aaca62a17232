"""What a second question about a picture costs, beside the first.

    python -m benchmarks.second_question MODEL PICTURE

Time from asking to the first token: of the first question, which has the picture read and encoded, and of others about
the same picture, each of other words and of about as many tokens. Prints both, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.figures import Figure, add_json_argument, report
from cotcli.answer import GenerationParams, Timing
from cotcli.generate import Reasoner, load

_FIRST = "What is in this picture?"
_OTHERS = (
    "What is it that stands out?",
    "Which colours are there?",
    "Where was this taken?",
    "How many things are shown?",
    "Is there any text in it?",
)


class FirstToken:
    """Notes when the first token of an answer is there."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self, phase: str, done: int, total: int) -> None:
        """A model's ``on_progress``."""
        if phase == "decode" and done == 1:
            self.at = time.perf_counter()


def first_token(model: Reasoner, clock: FirstToken, picture: Path, question: str) -> tuple[float, Timing]:
    """Seconds to the first token, and the times of the whole."""
    begin = time.perf_counter()
    answer = model.ask(picture, question, GenerationParams(temperature=0.0, max_tokens=2))
    return clock.at - begin, answer.timing


def measure(model: str, picture: Path, context: int = 1024, threads: int | None = None) -> list[Figure]:
    """The first question's time to its first token, what of it is the picture's, the others', and the ratio."""
    clock = FirstToken()
    with load(
        model, threads=threads, context_length=context, image_cache=False, gpu_layers=0, on_progress=clock
    ) as reasoner:
        reasoner.ask(None, "Ready?", max_tokens=2)  # what is made at the first answer of any kind is made now
        first, timing = first_token(reasoner, clock, picture, _FIRST)
        others = tuple(first_token(reasoner, clock, picture, question)[0] for question in _OTHERS)
    return [
        Figure("first question about a picture, to the first token", (first,), "s"),
        Figure("of that, the picture", (timing.image / 1e3,), "s"),
        Figure("other questions about it, to the first token", others, "s"),
        Figure("first question: times the others", tuple(first / other for other in others), at_least=20),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    add_json_argument(parser)
    given = parser.parse_args()
    report(measure(given.model, given.picture, given.ctx, given.threads), given.json)


if __name__ == "__main__":
    main()
