"""What config files of mllama checkpoints say, whatever their size, in the words of Meta's release (transformers 4.45).

Knows the vision side and preprocessing; the text side, of which sizes differ in more than numbers, stands with each.
"""

from __future__ import annotations

from typing import Any

from cotcli.image import ImagePreprocessing
from cotcli.mllama.hparams import HParams

RATIOS = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
GATES = ("gate", "gate_attn", "gate_ffn", "cross_attn_attn_gate", "cross_attn_mlp_gate")
"""Last parts of the names of gates, in both generations of names."""


def vision_config(hparams: HParams) -> dict[str, Any]:
    """config.json's ``vision_config``."""
    vision = hparams.vision
    return {
        "model_type": "mllama_vision_model",
        "attention_heads": vision.attention_heads,
        "hidden_act": "gelu",
        "hidden_size": vision.hidden_size,
        "image_size": vision.image_size,
        "intermediate_layers_indices": list(vision.intermediate_states),
        "intermediate_size": vision.intermediate_size,
        "max_num_tiles": vision.max_num_tiles,
        "norm_eps": vision.norm_eps,
        "num_channels": 3,
        "num_global_layers": vision.num_global_layers,
        "num_hidden_layers": vision.num_hidden_layers,
        "patch_size": vision.patch_size,
        "supported_aspect_ratios": [list(ratio) for ratio in hparams.image.supported_aspect_ratios],
        "vision_output_dim": vision.vision_output_dim,
    }


def preprocessor_config(image: ImagePreprocessing) -> dict[str, Any]:
    """preprocessor_config.json."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(image.image_mean),
        "image_processor_type": "MllamaImageProcessor",
        "image_std": list(image.image_std),
        "max_image_tiles": image.max_num_tiles,
        "resample": 2,
        "rescale_factor": image.rescale_factor,
        "size": {"height": image.tile_size, "width": image.tile_size},
    }
