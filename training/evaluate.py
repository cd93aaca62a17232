"""Asks a checkpoint about held-out scenes, greedily, and prints how much of it is right.

    python -m training.evaluate CHECKPOINT --scenes 500 --seed 0
    python -m training.evaluate --write DIR --scenes 500 --seed 0

Knows the command: it asks a checkpoint, or writes the same scenes and questions to a folder for others to answer
(`training.check` judges those), for which neither torch nor transformers is needed. Scenes and judging are
`held_out`'s, running a checkpoint is `greedy`'s.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from training.arguments import between, checkpoint_folder
from training.held_out import MAX_ITEMS, MAX_SET, QUESTIONS, TRUTH, held_out, score, write_folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=checkpoint_folder, nargs="?", help="a folder saved by training.train")
    parser.add_argument("--scenes", type=between(1, MAX_ITEMS), default=500)
    parser.add_argument("--seed", type=between(0, MAX_SET), default=0, help="which held-out set")
    parser.add_argument("--threads", type=between(1, 512), default=1)
    parser.add_argument("--write", type=Path, metavar="DIR", help="write pictures, questions and truth to DIR instead")
    parser.add_argument(
        "--show-wrong", type=between(0, MAX_ITEMS), default=0, metavar="N", help="print N of the wrong answers"
    )
    given = parser.parse_args(arguments)
    if (given.write is None) == (given.checkpoint is None):
        parser.error("give either a CHECKPOINT, or --write DIR")
    items = held_out(given.scenes, given.seed)
    if given.write is not None:
        try:
            write_folder(items, given.write)
        except ValueError as error:
            parser.error(f"argument --write: {error}")
        except OSError as error:
            parser.error(f"cannot write to {given.write}: {error.strerror or error}")
        print(f"{len(items)} pictures, {QUESTIONS} and {TRUTH} in {given.write}")
        return
    import torch

    from training.greedy import transformers_answers

    torch.set_num_threads(given.threads)
    began = time.monotonic()
    answers = transformers_answers(given.checkpoint, items)
    result, verdicts = score(items, answers)
    print("\n".join(result.lines()))
    print(f"{time.monotonic() - began:.1f} s")
    wrong = [index for index, verdict in enumerate(verdicts) if not verdict.correct]
    for index in wrong[: given.show_wrong]:
        item = items[index]
        print(
            f"\n--- {index}: {item.question.text}\n{answers[index]}\n--- truth: {item.question.truth}\n{item.reference}"
        )


if __name__ == "__main__":
    main()
