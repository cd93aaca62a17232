"""How much faster several candidates of one answer are written at once than one by one.

    python -m benchmarks.candidates PAIR --at-once 8 --steps 10

Candidates share a prompt and a picture of four tiles: copies of one sequence go on from its end, each with tokens of
its own. A step appends a token to each. Steps of one candidate and of all take turns. Weights are repacked, as
`cotcli batch --repack` has them, unless `--no-repack`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.figures import Figure, add_json_argument, report
from cotcli.engine import Engine, EngineOptions, TokenSequence
from cotcli.registry import ResolvedModel, resolve

_PROMPT = 24
_LEAST_GAIN = 1.6


def measure(files: ResolvedModel, at_once: int, steps: int, *, repack: bool, threads: int | None) -> list[Figure]:
    """Tokens a second of one candidate and of so many at once, a value a step, and their ratio."""
    options = EngineOptions(
        threads=threads, context_length=_PROMPT + 2 * steps + 1, max_sequences=at_once, repack=repack
    )
    alone: list[float] = []
    together: list[float] = []
    with Engine(files.language, files.mmproj, options) as engine:
        vision = engine.hparams.vision
        shape = (vision.max_num_tiles * vision.num_patches, engine.hparams.text.hidden_size)
        image = engine.load_image(np.random.default_rng(0).standard_normal(shape, np.float32), vision.max_num_tiles)
        first = engine.sequence(image)
        engine.release_image(image)
        engine.prefill(first, [0, engine.image_token, *range(_PROMPT - 2)])
        candidates = [first, *(engine.fork(first) for _ in range(at_once - 1))]
        _step(engine, candidates, 0)  # the first of its kind makes libllama plan its memory
        for step in range(1, steps + 1):
            alone.append(1 / _step(engine, [first], step))
            together.append(at_once / _step(engine, candidates, step))
        for candidate in candidates:
            engine.drop(candidate)
    ratios = tuple(many / one for one, many in zip(alone, together, strict=True))
    return [
        Figure("one candidate", tuple(alone), "tokens/s"),
        Figure(f"{at_once} candidates at once", tuple(together), "tokens/s"),
        Figure(f"{at_once} candidates at once: times one", ratios, at_least=_LEAST_GAIN),
    ]


def _step(engine: Engine, candidates: Sequence[TokenSequence], step: int) -> float:
    """Seconds."""
    begin = time.perf_counter()
    engine.extend([(candidate, [100 + 10 * step + number]) for number, candidate in enumerate(candidates)])
    return time.perf_counter() - begin


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--threads", type=int)
    add_json_argument(parser)
    given = parser.parse_args()
    figures = measure(resolve(given.model), given.at_once, given.steps, repack=given.repack, threads=given.threads)
    report(figures, given.json)


if __name__ == "__main__":
    main()
