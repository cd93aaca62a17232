"""The tiny mllama: its configuration, its image processor and its starting weights.

Knows shapes and initial values. Knows nothing about data or about the training loop.
Widths are multiples of 256, so that every K-quant applies to every 2-D weight except the patch embedding and the
position tables; eight aspect ratios of up to four tiles, as in the 11B model.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import GenerationConfig, MllamaConfig, MllamaForConditionalGeneration
from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

from cotcli.image.prepare import ImagePreprocessing
from training.tokenizer import VOCAB_SIZE

TILE_SIZE = 64
PATCH_SIZE = 16
PATCHES_PER_SIDE = TILE_SIZE // PATCH_SIZE  # 16 patches a tile and the class token
MAX_NUM_TILES = 4
ASPECT_RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
WIDTH = 256
CROSS_ATTENTION_LAYERS = (1, 3)
PREPROCESSING = ImagePreprocessing(TILE_SIZE, MAX_NUM_TILES, IMAGE_MEAN, IMAGE_STD, 1 / 255, ASPECT_RATIOS)


def make_config(bos_id: int, eot_id: int, pad_id: int, text_width: int = WIDTH) -> MllamaConfig:
    """The configuration of the bundled model; a wider language side is for comparisons."""
    return MllamaConfig(
        vision_config={
            "hidden_size": WIDTH,
            "intermediate_size": 512,
            "attention_heads": 4,
            "num_hidden_layers": 3,
            "num_global_layers": 1,
            "intermediate_layers_indices": [0, 1],
            "vision_output_dim": 3 * WIDTH,
            "image_size": TILE_SIZE,
            "patch_size": PATCH_SIZE,
            "max_num_tiles": MAX_NUM_TILES,
            "supported_aspect_ratios": [list(ratio) for ratio in ASPECT_RATIOS],
            "initializer_range": 0.05,
        },
        text_config={
            "vocab_size": VOCAB_SIZE,
            "hidden_size": text_width,
            "intermediate_size": 2 * text_width,
            "num_hidden_layers": 6,
            "cross_attention_layers": list(CROSS_ATTENTION_LAYERS),
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "initializer_range": 0.05,
            "bos_token_id": bos_id,
            "eos_token_id": eot_id,
            "pad_token_id": pad_id,
        },
        image_token_index=VOCAB_SIZE,
    )


def make_model(config: MllamaConfig) -> MllamaForConditionalGeneration:
    """A model with starting weights from torch's current seed; every tanh gate is open enough to train through."""
    model = MllamaForConditionalGeneration(config)
    residual_scale = 1 / math.sqrt(2 * config.text_config.num_hidden_layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("gate", "gate_attn", "gate_ffn")):
                weight.fill_(0.3 if "cross_attn" in name else 0.7)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight")):
                weight.mul_(residual_scale)
        vision = model.model.vision_model
        table = _canvas_positions()
        vision.gated_positional_embedding.tile_embedding.weight.copy_(table.reshape(len(ASPECT_RATIOS) + 1, -1))
        vision.patch_embedding.weight.copy_(_cosine_patches())
    return model


def _canvas_positions(amplitude: float = 0.6) -> torch.Tensor:
    """Sinusoids of each patch's row and column on the whole canvas, shape = (ratios + 1, tiles, patches + 1, width).

    A start that gives the same code to the same place whatever the tile layout; training is free to change it.
    """
    table = torch.zeros(len(ASPECT_RATIOS) + 1, MAX_NUM_TILES, PATCHES_PER_SIDE**2 + 1, WIDTH)
    quarter = WIDTH // 4
    rates = torch.exp(torch.linspace(math.log(0.1), math.log(2.5), quarter))
    for ratio_id, (rows, columns) in enumerate(ASPECT_RATIOS, 1):
        for tile in range(rows * columns):
            for patch in range(PATCHES_PER_SIDE**2):
                y = tile // columns * PATCHES_PER_SIDE + patch // PATCHES_PER_SIDE
                x = tile % columns * PATCHES_PER_SIDE + patch % PATCHES_PER_SIDE
                parts = [(x * rates).sin(), (x * rates).cos(), (y * rates).sin(), (y * rates).cos()]
                table[ratio_id, tile, patch + 1] = torch.cat(parts) * amplitude
    return table


def _cosine_patches(amplitude: float = 1.0) -> torch.Tensor:
    """The patch embedding's start: a cosine transform of brightness and two colour differences, low frequencies
    first, higher ones amplified as they are rarer in pictures; shape = (width, 3, PATCH_SIZE, PATCH_SIZE).
    """
    steps = (torch.arange(PATCH_SIZE) + 0.5) * math.pi / PATCH_SIZE
    waves = torch.stack([(steps * k).cos() * math.sqrt((2 if k else 1) / PATCH_SIZE) for k in range(PATCH_SIZE)])
    axes = torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    axes = axes / axes.norm(dim=1, keepdim=True)
    order = sorted(
        ((u, v, c) for u in range(PATCH_SIZE) for v in range(PATCH_SIZE) for c in range(3)),
        key=lambda uvc: math.hypot(uvc[0], uvc[1]) + (2.0 if uvc[2] else 0.0),
    )[:WIDTH]
    filters = [
        axes[c][:, None, None] * torch.outer(waves[v], waves[u]) * amplitude * (1 + math.hypot(u, v)) / PATCH_SIZE * 2
        for u, v, c in order
    ]
    return torch.stack(filters)


def make_image_processor() -> MllamaImageProcessorPil:
    """transformers' own preprocessing (Pillow backend) for this model's tiles."""
    return MllamaImageProcessorPil(
        size={"height": TILE_SIZE, "width": TILE_SIZE},
        max_image_tiles=MAX_NUM_TILES,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
    )


def make_generation_config(bos_id: int, eos_ids: list[int], pad_id: int) -> GenerationConfig:
    """Greedy, and the ids that end an answer."""
    settings: dict[str, Any] = {"bos_token_id": bos_id, "eos_token_id": eos_ids, "pad_token_id": pad_id}
    return GenerationConfig(do_sample=False, max_new_tokens=320, **settings)


def project(model: MllamaForConditionalGeneration, images: dict[str, torch.Tensor]) -> torch.Tensor:
    """Pictures -> cross-attention states, float32, shape = (pictures, tiles * (patches + 1), width)."""
    core = model.model
    states = core.vision_model(**images).last_hidden_state
    projected: torch.Tensor = core.multi_modal_projector(states)
    return projected.reshape(states.shape[0], -1, core.hidden_size)
