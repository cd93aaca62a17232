"""What an answer costs at a model's true size, phase by phase, in one table.

    python -m benchmarks.speed PAIR picture.jpg --json speed.json

PAIR is LLaVA-CoT, or random weights of its shapes (`benchmarks.random_pair`). In this order, each with its own module:
start, load and memory (`startup`), the vision tower (`tower`), a token with a picture (`decode`), a second question
(`second_question`), several candidates at once (`candidates`). At 11B shapes on two cores it takes an hour and more;
nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import candidates, decode, second_question, startup, tower
from benchmarks.figures import Figure, add_json_argument, report
from cotcli.engine import Engine, EngineOptions
from cotcli.registry import resolve


def measure(model: str, picture: Path, rounds: int) -> list[Figure]:
    """Everything, `rounds` times each where that takes no hours."""
    files = resolve(model)
    figures = startup.measure(model, picture, rounds, max_tokens=8)
    with Engine(
        files.language, files.mmproj, EngineOptions(context_length=20 * rounds + 32, max_sequences=2)
    ) as engine:
        figures += tower.measure(engine, (4, 1), rounds)
        figures += decode.measure(files, engine, 10 * rounds)
    figures += second_question.measure(model, picture)
    figures += candidates.measure(files, 8, 3 * rounds, repack=True, threads=None)
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    add_json_argument(parser)
    given = parser.parse_args()
    report(measure(given.model, given.picture, given.rounds), given.json)


if __name__ == "__main__":
    main()
