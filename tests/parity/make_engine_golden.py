"""Writes tests/data/engine_golden.npz: what transformers computes for the cases of tests/engine_cases.py.

usage: python -m tests.parity.make_engine_golden
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import MllamaForConditionalGeneration

from benchmarks.small_checkpoints import write_checkpoint
from tests.engine_cases import CASES, KEPT_ROWS, KEPT_TOKENS, RECIPES, Case

GOLDEN = Path(__file__).parent.parent / "data" / "engine_golden.npz"


def load(name: str) -> Any:
    """The recipe's model. transformers 5 stacks the outputs of the listed vision layers; recipes saved by an older
    version mean their inputs, which are the outputs of the layers before."""
    recipe = RECIPES[name]
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), recipe)
        model = MllamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def states(model: Any, case: Case) -> np.ndarray[Any, Any]:
    picture = case.picture
    assert picture is not None
    with torch.no_grad():
        vision = model.model.vision_model
        taken: list[torch.Tensor] = []
        if not RECIPES[case.recipe].transformers_version.startswith("5"):  # type: ignore[union-attr]
            handles = [
                vision.transformer.layers[i].register_forward_pre_hook(
                    lambda _, args, kwargs: taken.append(args[0] if args else kwargs["hidden_states"]),
                    with_kwargs=True,
                )
                for i in RECIPES[case.recipe].indices
            ]
        output = vision(**inputs(case)).last_hidden_state
        if taken:
            for handle in handles:
                handle.remove()
            tiles, patches, hidden = output.shape[2], vision.num_patches, model.config.vision_config.hidden_size
            stacked = torch.stack(taken, dim=-1).reshape(1, 1, tiles, -1, hidden * len(taken))[:, :, :, :patches]
            output = torch.cat([output[..., :hidden], stacked], dim=-1)
        projected: torch.Tensor = model.model.multi_modal_projector(output)
    return projected.reshape(-1, projected.shape[-1]).numpy()


def inputs(case: Case) -> dict[str, torch.Tensor]:
    picture = case.picture
    assert picture is not None
    mask = torch.zeros(1, 1, 4, dtype=torch.long)
    mask[..., : picture.num_tiles] = 1
    return {
        "pixel_values": torch.from_numpy(picture.pixel_values)[None, None],
        "aspect_ratio_ids": torch.tensor([[picture.aspect_ratio_id]]),
        "aspect_ratio_mask": mask,
    }


def logits(model: Any, case: Case, projected: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    tokens = case.tokens
    ids = torch.tensor([tokens])
    extra: dict[str, torch.Tensor] = {}
    if case.picture is not None and projected is not None:
        mask = torch.zeros(1, len(tokens), 1, 4, dtype=torch.long)
        mask[:, case.image_at :, :, : case.picture.num_tiles] = 1
        extra = {"cross_attention_states": torch.from_numpy(projected)[None], "cross_attention_mask": mask}
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **extra).logits[0]
    return values.numpy()


def main() -> None:
    golden: dict[str, np.ndarray[Any, Any]] = {}
    for name in RECIPES:
        model = load(name)
        for case in (case for case in CASES if case.recipe == name):
            projected = states(model, case) if case.picture else None
            if projected is not None:
                golden[f"{case.name}/states"] = projected[KEPT_ROWS]
            golden[f"{case.name}/logits"] = logits(model, case, projected)[KEPT_TOKENS]
    np.savez_compressed(GOLDEN, **golden)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
