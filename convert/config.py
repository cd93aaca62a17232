"""config.json, preprocessor_config.json and generation_config.json of a HF folder -> HParams and what else is needed.

Knows the spellings of transformers 4.45 to 5.x and refuses what the runtime cannot compute. Knows nothing of tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cotcli.errors import CheckpointError
from cotcli.image import ImagePreprocessing
from cotcli.mllama.hparams import ARCHITECTURE, HParams, TextHParams, VisionHParams

IntermediateStates = Literal["auto", "inputs", "outputs"]
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR


@dataclass(frozen=True)
class Llama3Rope:
    """``rope_type: llama3``: low frequencies are slowed by ``factor`` (transformers ``_compute_llama3_parameters``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context: int


@dataclass(frozen=True)
class CheckpointConfig:
    """All that is read from the JSON files besides the tokenizer."""

    hparams: HParams
    rope_theta: float
    rope_scaling: Llama3Rope | None
    context_length: int
    tied_embeddings: bool
    sampling: Mapping[str, float]
    """Generation defaults by llama.cpp's names: temp, top_p, top_k, min_p, penalty_repeat; none without do_sample."""


def read_json(path: Path, required: bool = True) -> dict[str, Any]:
    """A JSON object; empty when the file is absent and not required.

    Raises:
        CheckpointError: absent, unreadable or not a JSON object.
    """
    if not required and not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing", "Give the folder of a Hugging Face checkpoint") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}", "Download the file again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object", "Download the file again")
    return content


def read_config(folder: Path, intermediate_states: IntermediateStates = "auto") -> CheckpointConfig:
    """Everything but the tokenizer and the tensors.

    ``intermediate_states``: whether ``intermediate_layers_indices`` name the inputs of those layers or their outputs.
    It depends on the code the checkpoint was trained with: Meta's own and transformers before 4.55 take the inputs,
    transformers from 4.56 the outputs (4.55.x took the last state for all: nothing useful was trained with it).
    "auto" goes by the ``transformers_version`` in config.json: before 4.55 or absent, inputs; else outputs. That is
    the version which *saved* the checkpoint: one trained earlier and saved again later needs "inputs" said outright.

    Raises:
        CheckpointError: another architecture, a missing or impossible value, or config and preprocessor disagree.
    """
    config = read_json(folder / "config.json")
    where = str(folder / "config.json")
    if config.get("model_type") != ARCHITECTURE:
        raise CheckpointError(
            f"{where}: model_type is {config.get('model_type')!r}, only {ARCHITECTURE!r} can be converted",
            "cotcli runs Llama-3.2-Vision checkpoints and their finetunes, such as Xkev/Llama-3.2V-11B-cot",
        )
    text_section, vision_section = _section(config, "text_config", where), _section(config, "vision_config", where)
    version = str(config.get("transformers_version", ""))
    inputs = intermediate_states == "inputs" or (intermediate_states == "auto" and _before_4_55(version))
    vision = _vision(vision_section, f"{where}: vision_config", inputs)
    text = _text(config, text_section, where)
    rope_theta, scaling = _rope(text_section, f"{where}: text_config")
    return CheckpointConfig(
        hparams=HParams(vision, text, _image(folder, vision_section, vision)),
        rope_theta=rope_theta,
        rope_scaling=scaling,
        context_length=_int(text_section, "max_position_embeddings", where, 131072),
        tied_embeddings=bool(text_section.get("tie_word_embeddings") or config.get("tie_word_embeddings")),
        sampling=_sampling(read_json(folder / "generation_config.json", required=False)),
    )


def _before_4_55(version: str) -> bool:
    parts = version.split(".")
    if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
        return True
    return (int(parts[0]), int(parts[1])) < (4, 55)


def _section(config: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    section = config.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"{where}: {key} is missing")
    return section


def _int(section: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = section.get(key, default)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]  # image_size and patch_size may be given as [height, width]
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CheckpointError(f"{where}: {key} is {value!r}, not a positive number")
    return value


def _float(section: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise CheckpointError(f"{where}: {key} is {value!r}, not a positive number")
    return float(value)


def _ints(section: Mapping[str, Any], key: str, where: str) -> tuple[int, ...]:
    value = section.get(key)
    if not isinstance(value, list) or not value or not all(type(n) is int for n in value):
        raise CheckpointError(f"{where}: {key} is {value!r}, not a list of numbers")
    return tuple(value)


def _divides(whole: int, part: int, what: str, where: str) -> None:
    if whole % part:
        raise CheckpointError(f"{where}: {what}: {whole} is no multiple of {part}")


def _text(config: Mapping[str, Any], section: Mapping[str, Any], file: str) -> TextHParams:
    where = f"{file}: text_config"
    if section.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"{where}: hidden_act is {section['hidden_act']!r}, only 'silu' can be run")
    layers = _int(section, "num_hidden_layers", where)
    cross = _ints(section, "cross_attention_layers", where)
    if list(cross) != sorted(set(cross)) or cross[0] < 0 or cross[-1] >= layers:
        raise CheckpointError(f"{where}: cross_attention_layers {list(cross)} do not fit {layers} layers")
    if cross[0] == 0:
        raise CheckpointError(
            f"{where}: layer 0 is a cross-attention layer; the runtime needs a self-attention layer before it"
        )
    if len(cross) == layers:
        raise CheckpointError(f"{where}: there is no self-attention layer")
    index_key = "image_token_index" if "image_token_index" in config else "image_token_id"
    text = TextHParams(
        hidden_size=_int(section, "hidden_size", where),
        intermediate_size=_int(section, "intermediate_size", where),
        num_hidden_layers=layers,
        num_attention_heads=_int(section, "num_attention_heads", where),
        num_key_value_heads=_int(section, "num_key_value_heads", where),
        rms_norm_eps=_float(section, "rms_norm_eps", where, 1e-5),
        vocab_size=_int(section, "vocab_size", where),
        cross_attention_layers=cross,
        image_token_index=_int(config, index_key, file),
    )
    _divides(text.hidden_size, 2 * text.num_attention_heads, "hidden_size over attention heads, in pairs", where)
    _divides(text.num_attention_heads, text.num_key_value_heads, "attention heads over key-value heads", where)
    if section.get("head_dim", text.head_dim) != text.head_dim:
        raise CheckpointError(f"{where}: head_dim is {section['head_dim']}, only {text.head_dim} can be run")
    if text.image_token_index >= text.vocab_size + 8:
        raise CheckpointError(f"{file}: image_token_index {text.image_token_index} is outside the embedding table")
    return text


def _vision(section: Mapping[str, Any], where: str, inputs: bool) -> VisionHParams:
    if section.get("hidden_act", "gelu") != "gelu":
        raise CheckpointError(f"{where}: hidden_act is {section['hidden_act']!r}, only 'gelu' can be run")
    if _int(section, "num_channels", where, 3) != 3:
        raise CheckpointError(f"{where}: num_channels is {section['num_channels']}, only 3 can be run")
    indices = _ints(section, "intermediate_layers_indices", where)
    vision = VisionHParams(
        hidden_size=_int(section, "hidden_size", where),
        intermediate_size=_int(section, "intermediate_size", where),
        attention_heads=_int(section, "attention_heads", where),
        num_hidden_layers=_int(section, "num_hidden_layers", where),
        num_global_layers=_int(section, "num_global_layers", where),
        patch_size=_int(section, "patch_size", where),
        image_size=_int(section, "image_size", where),
        max_num_tiles=_int(section, "max_num_tiles", where),
        norm_eps=_float(section, "norm_eps", where, 1e-5),
        intermediate_states=tuple(i if inputs else i + 1 for i in indices),
        max_aspect_ratio_id=len(_ratios(section, where)),
    )
    if not all(0 <= i < vision.num_hidden_layers for i in indices):
        raise CheckpointError(f"{where}: intermediate_layers_indices {list(indices)} name no such layers")
    _divides(vision.hidden_size, vision.attention_heads, "hidden_size over attention heads", where)
    _divides(vision.image_size, vision.patch_size, "image_size over patch_size", where)
    if section.get("vision_output_dim", vision.vision_output_dim) != vision.vision_output_dim:
        raise CheckpointError(
            f"{where}: vision_output_dim is {section['vision_output_dim']}, "
            f"but the final and {len(indices)} intermediate states make {vision.vision_output_dim}"
        )
    return vision


def _ratios(section: Mapping[str, Any], where: str) -> tuple[tuple[int, int], ...]:
    ratios = section.get("supported_aspect_ratios")
    if not isinstance(ratios, list) or not ratios or not all(isinstance(r, list) and len(r) == 2 for r in ratios):
        raise CheckpointError(f"{where}: supported_aspect_ratios is {ratios!r}, not a list of pairs")
    return tuple((int(rows), int(columns)) for rows, columns in ratios)


def _rope(section: Mapping[str, Any], where: str) -> tuple[float, Llama3Rope | None]:
    # transformers 5 keeps all of it in rope_parameters, 4.x theta beside rope_scaling.
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    theta = _float(rope if "rope_theta" in rope else section, "rope_theta", where, 500000.0)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise CheckpointError(f"{where}: rope_type is {kind!r}, only 'llama3' and 'default' can be run")
    scaling = Llama3Rope(
        factor=_float(rope, "factor", where),
        low_freq_factor=_float(rope, "low_freq_factor", where),
        high_freq_factor=_float(rope, "high_freq_factor", where),
        original_context=_int(rope, "original_max_position_embeddings", where),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise CheckpointError(f"{where}: high_freq_factor must be above low_freq_factor")
    return theta, scaling


def _image(folder: Path, section: Mapping[str, Any], vision: VisionHParams) -> ImagePreprocessing:
    """transformers 4 writes preprocessor_config.json, 5 may put the same under image_processor in processor_config."""
    path = folder / "preprocessor_config.json"
    if path.exists() or not (folder / "processor_config.json").exists():
        image = read_json(path)
    else:
        path = folder / "processor_config.json"
        image = _section(read_json(path), "image_processor", str(path))
    where = str(path)
    for step in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        if image.get(step, True) is not True:
            raise CheckpointError(f"{where}: {step} is {image[step]!r}, only true can be run")
    if image.get("resample", _BILINEAR) != _BILINEAR:
        raise CheckpointError(f"{where}: resample is {image['resample']!r}, only {_BILINEAR} (bilinear) can be run")
    size = _section(image, "size", where)
    height, width = _int(size, "height", where), _int(size, "width", where)
    tiles = _int(image, "max_image_tiles", where)
    if (height, width) != (vision.image_size, vision.image_size):
        raise CheckpointError(f"{where}: size is {height}x{width}, but config.json has image_size {vision.image_size}")
    if tiles != vision.max_num_tiles:
        raise CheckpointError(
            f"{where}: max_image_tiles is {tiles}, but config.json has max_num_tiles {vision.max_num_tiles}"
        )
    ratios = _ratios(section, str(folder / "config.json"))
    # The processor numbers the ratios in this order; the model's tile embeddings follow config.json.
    if ratios != tuple((r, c) for r in range(1, tiles + 1) for c in range(1, tiles + 1) if r * c <= tiles):
        raise CheckpointError(
            f"{folder / 'config.json'}: supported_aspect_ratios are not those of max_image_tiles {tiles} in {path.name}"
        )
    mean, std = _floats(image, "image_mean", where), _floats(image, "image_std", where)
    if not all(std):
        raise CheckpointError(f"{where}: image_std has a zero")
    return ImagePreprocessing(
        tile_size=height,
        max_num_tiles=tiles,
        image_mean=mean,
        image_std=std,
        rescale_factor=_float(image, "rescale_factor", where, 1 / 255),
        supported_aspect_ratios=ratios,
    )


def _floats(section: Mapping[str, Any], key: str, where: str) -> tuple[float, float, float]:
    value = section.get(key)
    if not isinstance(value, list) or len(value) != 3 or not all(type(x) in (int, float) for x in value):
        raise CheckpointError(f"{where}: {key} is {value!r}, not three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def _sampling(generation: Mapping[str, Any]) -> dict[str, float]:
    names = {
        "temperature": "temp",
        "top_p": "top_p",
        "top_k": "top_k",
        "min_p": "min_p",
        "repetition_penalty": "penalty_repeat",
    }
    if generation.get("do_sample") is not True:
        return {}  # transformers is greedy then, whatever the other keys say
    given = {ours: generation.get(theirs) for theirs, ours in names.items()}
    return {name: float(x) for name, x in given.items() if isinstance(x, (int, float)) and not isinstance(x, bool)}
