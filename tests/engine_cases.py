"""The models and inputs of the stored golden values: seeded NumPy, so that no weights need to be stored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.small_checkpoints import Recipe

_SMALL = Recipe(hidden_size=64, intermediate_size=128, vision_hidden_size=32, vision_intermediate_size=64)
RECIPES = {
    "gqa2-llama3": _SMALL,
    "mqa-neighbours": Recipe(
        **{
            **vars(_SMALL),
            "kv_heads": 1,
            "layers": 8,
            "cross_attention_layers": (2, 3, 6),
            "image_size": 42,
            "rope": {"rope_type": "default"},
            "seed": 1,
        }
    ),
    # transformers from 4.56 on: indices name outputs of layers; the last layer is a cross-attention layer
    "mha-last-outputs": Recipe(
        **{
            **vars(_SMALL),
            "kv_heads": 4,
            "layers": 4,
            "cross_attention_layers": (1, 3),
            "patch_size": 7,
            "transformers_version": "5.0.0",
            "seed": 2,
        }
    ),
}
KEPT_ROWS = slice(0, None, 3)  # of the states
KEPT_TOKENS = slice(None, None, 4)  # of the logits


@dataclass(frozen=True)
class Picture:
    """Random tiles; duck-types ``cotcli.image.PreparedImage`` for the vision tower."""

    pixel_values: npt.NDArray[np.float32]
    aspect_ratio_id: int
    num_tiles: int


@dataclass(frozen=True)
class Case:
    """One prompt: ``image_at`` is the image token's place, ``ratio`` the picture's (rows, columns)."""

    name: str
    recipe: str
    length: int
    image_at: int | None = None
    ratio_id: int = 0
    ratio: tuple[int, int] = (0, 0)

    @property
    def tokens(self) -> list[int]:
        recipe = RECIPES[self.recipe]
        tokens = np.random.default_rng(self.length).integers(0, recipe.vocab_size, self.length).tolist()
        if self.image_at is not None:
            tokens[self.image_at] = recipe.vocab_size
        return [int(token) for token in tokens]

    @property
    def picture(self) -> Picture | None:
        if self.image_at is None:
            return None
        side = RECIPES[self.recipe].image_size
        count = self.ratio[0] * self.ratio[1]
        pixels = np.random.default_rng(self.ratio_id).standard_normal((4, 3, side, side), np.float32)
        pixels[count:] = 0
        return Picture(pixels, self.ratio_id, count)


CASES = [
    Case(f"{recipe}-{name}", recipe, *details)
    for recipe in RECIPES
    for name, details in (
        ("one-tile", (37, 3, 1, (1, 1))),
        ("row", (70, 0, 4, (1, 4))),
        ("column", (21, 20, 7, (3, 1))),
        ("square", (150, 66, 6, (2, 2))),
        ("text", (41,)),
    )
]
