"""Does the model look where it speaks of? Cross-attention mass on an object's patches, against chance.

    python -m training.attention CHECKPOINT --scenes 200

Knows the layers' attention weights and where objects lie. The reference answer is fed to the model; at each word of
the caption that names an object (size, colour, shape), the mass that cross-attention puts on the patches which the
object covers is averaged over heads and layers. Chance is the share of those patches among all that may be looked at.
"""

from __future__ import annotations

import argparse
import random
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import MllamaForConditionalGeneration

from cotcli.shapes.answers import join_stages, make_stages
from training.arguments import between, checkpoint_folder
from training.batches import cross_attention_mask, object_patches, preprocess
from training.held_out import MAX_ITEMS, MAX_SET, Item, held_out
from training.tokenizer import PromptEncoder

WORDS = ("size", "colour", "shape")


@dataclass(frozen=True)
class Look:
    """`mass` on the object's patches, `chance` for it, each 0 to 1, averaged over the words counted."""

    words: int
    mass: float
    chance: float

    @property
    def ratio(self) -> float:
        """How many times chance."""
        return self.mass / self.chance


@torch.inference_mode()
def looks(checkpoint: Path, items: list[Item]) -> dict[tuple[str, str], Look]:
    """By (when, word): `when` is `about to say` (the position that predicts the word) or `saying` (its own)."""
    model = MllamaForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager").eval()
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    encoder = PromptEncoder(tokenizer)
    layers = model.config.text_config.cross_attention_layers
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for item in items:
        stages = make_stages(item.scene.seen, item.question, random.Random(item.scene.seed))
        text = join_stages(stages)
        prompt, encoding = encoder.prompt(item.question.text), tokenizer.encode(text, add_special_tokens=False)
        ids = torch.tensor([[*prompt, *encoding.ids]])
        images = preprocess([item.scene])
        mask = cross_attention_mask(images["aspect_ratio_mask"], ids.shape[1], encoder.image_position, 1)
        told = model.model(input_ids=ids, cross_attention_mask=mask, **images, output_attentions=True, use_cache=False)
        weights = torch.stack([told.attentions[layer][0].mean(0) for layer in layers]).mean(0)
        allowed = int((images["aspect_ratio_mask"].sum() * (weights.shape[1] // mask.shape[-1])).item())
        start = text.index(stages[1])
        lines = list(re.finditer(r"\d+\. (\w+) (\w+) (\w+)", stages[1]))
        for line, (_, patches) in zip(lines, object_patches(item.scene), strict=True):
            for group, word in enumerate(WORDS, 1):
                token = encoding.char_to_token(start + line.start(group))
                assert token is not None
                position = len(prompt) + token
                for when, at in (("about to say", position - 1), ("saying", position)):
                    found[when, word].append((float(weights[at, patches].sum()), len(patches) / allowed))
    return {key: Look(len(pairs), *(float(mean) for mean in np.mean(pairs, axis=0))) for key, pairs in found.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_folder)
    parser.add_argument("--scenes", type=between(1, MAX_ITEMS), default=200)
    parser.add_argument("--seed", type=between(0, MAX_SET), default=0, help="which held-out set")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for (when, word), look in looks(given.checkpoint, held_out(given.scenes, given.seed)).items():
        print(
            f"{when + ' the ' + word:<26}{look.words:6d} words  mass {look.mass:6.1%}  chance {look.chance:6.1%}"
            f"  ratio {look.ratio:5.1f}"
        )


if __name__ == "__main__":
    main()
