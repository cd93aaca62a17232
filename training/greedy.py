"""A checkpoint's greedy answers, by transformers.

Knows how to run a model on scenes. Knows nothing about what is right.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tqdm import tqdm
from transformers import MllamaForConditionalGeneration

from training.batches import cross_attention_mask, preprocess
from training.held_out import Item
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
    position: int = 0,
) -> list[str]:
    """One greedy answer an item. Prompts of one length go together: no padding. `position`: the progress bar's line."""
    encoder = PromptEncoder(tokenizer)
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for index, item in enumerate(items):
        prompt = encoder.prompt(item.question.text)
        by_length[len(prompt)].append((index, prompt))
    answers = [""] * len(items)
    with tqdm(total=len(items), unit="scene", position=position, disable=not sys.stderr.isatty()) as bar:
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
