"""Asks a checkpoint about held-out scenes, greedily, and prints how much of it is right.

    python -m training.evaluate CHECKPOINT --scenes 500 --seed 0
    python -m training.evaluate --write DIR --scenes 500 --seed 0

Knows how to run a checkpoint with transformers, or to write the same scenes and questions to a folder for others to
answer. Scenes and judging are `held_out`'s.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import MllamaForConditionalGeneration

from training.batches import cross_attention_mask, preprocess
from training.held_out import Item, held_out, score, write_folder
from training.tokenizer import PromptEncoder


def transformers_answers(checkpoint: Path, items: Sequence[Item]) -> list[str]:
    """One greedy answer an item, by transformers in float32."""
    model = MllamaForConditionalGeneration.from_pretrained(checkpoint).eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    return greedy_answers(model, tokenizer, items)


@torch.inference_mode()
def greedy_answers(
    model: MllamaForConditionalGeneration,
    tokenizer: Tokenizer,
    items: Sequence[Item],
    batch: int = 32,
) -> list[str]:
    """One greedy answer an item. Prompts of one length go together: no padding."""
    encoder = PromptEncoder(tokenizer)
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, item in enumerate(items):
        prompt = encoder.prompt(item.question.text)
        by_length[len(prompt)].append((index, prompt))
    answers = [""] * len(items)
    with tqdm(total=len(items), unit="scene", disable=not sys.stderr.isatty()) as bar:
        for length, group in sorted(by_length.items()):
            for start in range(0, len(group), batch):
                part = group[start : start + batch]
                images = preprocess([items[index].scene for index, _ in part])
                mask = cross_attention_mask(images["aspect_ratio_mask"], length, encoder.image_position, 1)
                prompts = torch.tensor([prompt for _, prompt in part])
                told = model.generate(
                    input_ids=prompts,
                    attention_mask=torch.ones_like(prompts),
                    cross_attention_mask=mask,
                    **images,
                    do_sample=False,
                    max_new_tokens=320,
                )
                for (index, _), ids in zip(part, told[:, length:].tolist(), strict=True):
                    answers[index] = tokenizer.decode(ids, skip_special_tokens=True)
                bar.update(len(part))
    return answers


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, nargs="?", help="a folder saved by training.train")
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="which held-out set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", type=Path, metavar="DIR", help="write pictures and questions.jsonl to DIR instead")
    parser.add_argument("--show-wrong", type=int, default=0, metavar="N", help="print N of the wrong answers")
    given = parser.parse_args()
    items = held_out(given.scenes, given.seed)
    if given.write is not None:
        write_folder(items, given.write)
        print(f"{len(items)} pictures and questions.jsonl in {given.write}")
        return
    if given.checkpoint is None:
        parser.error("give a CHECKPOINT, or --write DIR")
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
