"""What a second question about a picture costs, beside the first.

    python -m benchmarks.second_question MODEL PICTURE

Time from asking to the first token: of the first question, which has the picture read and encoded, and of others about
the same picture, each of other words and of about as many tokens. Prints both, and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--ctx", type=int, default=1024)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--gpu-layers", type=int, default=0)
    given = parser.parse_args()
    clock = FirstToken()
    with load(
        given.model,
        gpu_layers=given.gpu_layers,
        threads=given.threads,
        context_length=given.ctx,
        image_cache=False,
        on_progress=clock,
    ) as model:
        model.ask(None, "Ready?", max_tokens=2)  # what is made at the first answer of any kind is made now
        first, timing = first_token(model, clock, given.picture, _FIRST)
        others = [first_token(model, clock, given.picture, question)[0] for question in _OTHERS]
        print(f"{model.info.name} {model.info.quant}, {model.info.device}")
    print(f"first question   {first:.3f} s (picture {timing.image / 1e3:.3f}, prompt {timing.prompt / 1e3:.3f})")
    print(f"second question  {statistics.median(others):.3f} s ({min(others):.3f} to {max(others):.3f})")
    print(f"ratio            {first / statistics.median(others):.1f}")


if __name__ == "__main__":
    main()
