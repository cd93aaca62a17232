"""What each quantization of a checkpoint loses on held-out scenes.

    python -m benchmarks.quantization CHECKPOINT --types f32 f16 q8_0 q4_k_m --scenes 500

For every type: the size of the pair; the share of right answers, greedy, through cotcli's Python API, also by kind of
question, and the stages at which the wrong ones went wrong; and, over the tokens of reference answers, how far the
predictions are from the first type's: mean Kullback-Leibler divergence in nats a token, and how often the likeliest
token is the same.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track
from rich.table import Table

from convert import convert
from cotcli.errors import CotcliError
from cotcli.generate import Reasoner, load
from cotcli.scoring import log_softmax
from cotcli.shapes.scenes import draw
from training.arguments import between
from training.held_out import MAX_ITEMS, MAX_SET, Item, Score, held_out, score

LogProbs = npt.NDArray[np.float64]

_MAX_TOKENS = 512  # the world's longest answer has 305


@dataclass(frozen=True)
class Loss:
    """What one type loses. ``divergence`` and ``agreement`` are against the first type."""

    divergence: float
    agreement: float
    score: Score


def predictions(model: Reasoner, items: list[Item]) -> list[LogProbs]:
    """Natural log-probabilities before each token of each reference answer, shape (tokens, n_vocab)."""
    return [np.stack(list(_rows(model, item))) for item in items]


def _rows(model: Reasoner, item: Item) -> Iterator[LogProbs]:
    engine = model.engine
    encoded = model.encode(draw(item.scene))
    sequence = engine.sequence(encoded.kv)
    engine.prefill(sequence, model.prompt(item.question.text, encoded))
    yield log_softmax(engine.logits(sequence))
    for row in engine.each_logits(sequence, engine.model.tokenize(item.reference)):
        yield log_softmax(row)
    engine.drop(sequence)


def measure(model: Reasoner, name: str, items: list[Item], base: list[LogProbs], ours: list[LogProbs]) -> Loss:
    """Asks about every item and compares the predictions."""
    divergence = np.concatenate([(np.exp(p) * (p - q)).sum(-1) for p, q in zip(base, ours, strict=True)])
    agreement = np.concatenate([p.argmax(-1) == q.argmax(-1) for p, q in zip(base, ours, strict=True)])
    answers = [
        model.ask(draw(item.scene), item.question.text, temperature=0.0, max_tokens=_MAX_TOKENS).raw
        for item in track(items, description=name, console=Console(stderr=True), transient=True)
    ]
    return Loss(float(divergence.mean()), float(agreement.mean()), score(items, answers)[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quantization",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--types", nargs="+", default=["f32", "f16", "q8_0", "q4_k_m"])
    parser.add_argument("--scenes", type=between(1, MAX_ITEMS), default=500)
    parser.add_argument("--kl-scenes", type=between(1, MAX_ITEMS), default=100, help="of these, for the divergence")
    parser.add_argument("--seed", type=between(0, MAX_SET), default=0, help="which held-out set")
    parser.add_argument("--threads", type=between(1, 512))
    given = parser.parse_args(arguments)
    try:
        compare(given)
    except CotcliError as error:
        parser.error(". ".join([error.message, *([error.hint] if error.hint else [])]))


def compare(given: argparse.Namespace) -> None:
    """Prints the table of all types, and below it what each got right.

    Raises:
        CotcliError: it is no checkpoint, or there is no such type.
    """
    items = held_out(given.scenes, given.seed)
    table = Table("type", "MB", "KL, nats/token", "same top token", "right", "well-formed")
    base: list[LogProbs] | None = None
    details: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for quantization in given.types:
            pair = convert(given.checkpoint, folder, quantization, name="model")
            with load(str(pair.language), threads=given.threads) as model:
                ours = predictions(model, items[: given.kl_scenes])
                base = base or ours
                loss = measure(model, quantization, items, base, ours)
            table.add_row(
                pair.quantization,
                f"{(pair.language_bytes + pair.mmproj_bytes) / 1e6:.1f}",
                f"{loss.divergence:.2e}",
                f"{loss.agreement:.2%}",
                f"{loss.score.accuracy:.1%}",
                f"{loss.score.well_formed / len(items):.1%}",
            )
            details += [f"\n{pair.quantization}", *loss.score.lines()]
    Console(width=120).print(table)
    print("\n".join(details))


if __name__ == "__main__":
    main()
