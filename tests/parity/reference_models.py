"""Random mllama models in transformers, saved as ordinary checkpoints, and what transformers computes with them.

Weights are larger than an initialisation's and gates are wide open, so that no part of the model is negligible.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from training.tokenizer import VOCAB_SIZE, sample_texts, save_tokenizer, train_tokenizer

IMAGE_TOKEN = VOCAB_SIZE
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10000.0}


@dataclass(frozen=True)
class Shape:
    """What differs between the configurations."""

    name: str
    hidden: int
    heads: int
    kv_heads: int
    layers: int
    cross: tuple[int, ...]
    rope: dict[str, Any]
    tile: int
    patch: int
    vision_hidden: int
    vision_heads: int
    vision_layers: int
    global_layers: int
    intermediate: tuple[int, ...]


SHAPES = (
    Shape("gqa2", 64, 4, 2, 7, (1, 4), _PLAIN_ROPE, 28, 14, 32, 4, 3, 2, (0, 2)),
    # one key-value head, neighbouring cross-attention layers, llama3 scaling that bites at these lengths
    Shape("mqa-neighbours-llama3", 96, 6, 1, 9, (2, 3, 6), _LLAMA3_ROPE, 42, 14, 48, 2, 5, 1, (1, 2, 4)),
    # no grouping; the last layer is a cross-attention layer, whose input has the output columns only
    Shape("mha-last", 128, 8, 8, 6, (1, 5), _PLAIN_ROPE, 56, 8, 64, 4, 2, 3, (0,)),
    # the 11B model's spacing and grouping
    Shape("gqa4-llama3", 64, 8, 2, 15, (3, 8, 13), _LLAMA3_ROPE, 28, 7, 32, 2, 4, 2, (0, 1, 3)),
)


def make_model(shape: Shape, seed: int = 0) -> MllamaForConditionalGeneration:
    torch.manual_seed(seed)
    config = MllamaConfig(
        vision_config={
            "hidden_size": shape.vision_hidden,
            "intermediate_size": shape.vision_hidden * 2,
            "attention_heads": shape.vision_heads,
            "num_hidden_layers": shape.vision_layers,
            "num_global_layers": shape.global_layers,
            "intermediate_layers_indices": list(shape.intermediate),
            "vision_output_dim": shape.vision_hidden * (1 + len(shape.intermediate)),
            "image_size": shape.tile,
            "patch_size": shape.patch,
        },
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": shape.hidden,
            "intermediate_size": shape.hidden * 2,
            "num_hidden_layers": shape.layers,
            "cross_attention_layers": list(shape.cross),
            "num_attention_heads": shape.heads,
            "num_key_value_heads": shape.kv_heads,
            "rope_parameters": shape.rope,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 0,
        },
        image_token_index=IMAGE_TOKEN,
    )
    model = MllamaForConditionalGeneration(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "gate" in name and "gate_proj" not in name:
                parameter.uniform_(0.4, 0.9)
            elif parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(1, 0.1)
            else:
                parameter.normal_(0, 0.1)
    return model


def save(model: MllamaForConditionalGeneration, folder: Path) -> MllamaImageProcessorPil:
    """Saves what a published checkpoint has; returns the image processor."""
    tokenizer = train_tokenizer(sample_texts(300))
    begin = tokenizer.token_to_id("<|begin_of_text|>")
    ends = [tokenizer.token_to_id(name) for name in ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")]
    with torch.no_grad():  # a random model would end its turn at random
        model.lm_head.weight[[begin, *ends]] = 0
    text = model.config.text_config
    text.bos_token_id, text.eos_token_id, text.pad_token_id = begin, ends[0], 0
    generation = model.generation_config
    generation.bos_token_id, generation.eos_token_id, generation.pad_token_id = begin, ends, 0
    model.save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    side = model.config.vision_config.image_size
    processor = MllamaImageProcessorPil(size={"height": side, "width": side}, max_image_tiles=4)
    processor.save_pretrained(folder)
    return processor


@dataclass(frozen=True)
class Picture:
    """Random tiles of one aspect ratio, as the vision tower takes them; duck-types ``cotcli.image.PreparedImage``."""

    pixel_values: npt.NDArray[np.float32]
    aspect_ratio_id: int
    num_tiles: int

    def inputs(self) -> dict[str, torch.Tensor]:
        mask = torch.zeros(1, 1, 4, dtype=torch.long)
        mask[..., : self.num_tiles] = 1
        return {
            "pixel_values": torch.from_numpy(self.pixel_values)[None, None],
            "aspect_ratio_ids": torch.tensor([[self.aspect_ratio_id]]),
            "aspect_ratio_mask": mask,
        }


def random_picture(model: MllamaForConditionalGeneration, aspect_ratio_id: int, seed: int) -> Picture:
    vision = model.config.vision_config
    rows, columns = vision.supported_aspect_ratios[aspect_ratio_id - 1]
    pixels = np.random.default_rng(seed).standard_normal((4, 3, vision.image_size, vision.image_size), np.float32)
    pixels[rows * columns :] = 0
    return Picture(pixels, aspect_ratio_id, rows * columns)


def random_tokens(length: int, image_at: int | None, seed: int) -> list[int]:
    tokens = np.random.default_rng(seed).integers(0, VOCAB_SIZE, length).tolist()
    if image_at is not None:
        tokens[image_at] = IMAGE_TOKEN
    return [int(token) for token in tokens]


def reference_states(model: MllamaForConditionalGeneration, picture: Picture) -> npt.NDArray[np.float32]:
    """Projected vision states, shape (tiles * patches, hidden)."""
    with torch.no_grad():
        states = model.model.vision_model(**picture.inputs()).last_hidden_state
        projected: torch.Tensor = model.model.multi_modal_projector(states)
    return projected.reshape(-1, projected.shape[-1]).numpy()


def reference_logits(
    model: MllamaForConditionalGeneration, tokens: list[int], picture: Picture | None
) -> npt.NDArray[np.float32]:
    """Logits after every token, shape (tokens, vocab_size)."""
    ids = torch.tensor([tokens])
    inputs: dict[str, torch.Tensor] = {}
    if picture is not None:
        mask = torch.zeros(1, len(tokens), 1, 4, dtype=torch.long)
        mask[:, tokens.index(IMAGE_TOKEN) :, :, : picture.num_tiles] = 1
        inputs = {**picture.inputs(), "cross_attention_mask": mask}
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), **inputs).logits[0]
    return logits.numpy()


def relative_error(ours: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """|ours - reference| / |reference|, in the Euclidean norm."""
    return float(np.linalg.norm(ours.astype(np.float64) - reference) / np.linalg.norm(reference))
