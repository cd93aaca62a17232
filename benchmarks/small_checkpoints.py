"""Random mllama checkpoints, small, written by hand in NumPy: what transformers would save, without torch.

Shapes and names come from the shared table, so a wrong table shows in tests/parity, where transformers reads these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.config_files import GATES, RATIOS, preprocessor_config, vision_config
from cotcli.image import ImagePreprocessing
from cotcli.mllama.hparams import HParams, TextHParams, VisionHParams
from cotcli.mllama.tensor_names import language_tensors, mmproj_tensors

LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
)
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
CHAT_TEMPLATE = "{{- bos_token }}{%- for m in messages %}{{- m['content'] }}{{- '<|eot_id|>' }}{%- endfor %}"


@dataclass(frozen=True)
class Recipe:
    """A checkpoint to write. ``indices`` are config.json's ``intermediate_layers_indices``."""

    hidden_size: int = 256
    intermediate_size: int = 512
    layers: int = 5
    cross_attention_layers: tuple[int, ...] = (1, 3)
    heads: int = 4
    kv_heads: int = 2
    vocab_size: int = 320
    vision_hidden_size: int = 64
    vision_intermediate_size: int = 128
    vision_heads: int = 4
    vision_layers: int = 3
    global_layers: int = 2
    indices: tuple[int, ...] = (0, 2)
    patch_size: int = 14
    image_size: int = 28
    rope: Mapping[str, Any] = field(default_factory=lambda: LLAMA3_ROPE)
    transformers_version: str | None = "4.45.0"
    seed: int = 0
    dtype: str = "F32"
    shards: int = 1
    generation: int = 1
    tied: bool = False

    @property
    def hparams(self) -> HParams:
        """As convert should read it when the version says that indices name inputs."""
        return HParams(
            VisionHParams(
                hidden_size=self.vision_hidden_size,
                intermediate_size=self.vision_intermediate_size,
                attention_heads=self.vision_heads,
                num_hidden_layers=self.vision_layers,
                num_global_layers=self.global_layers,
                patch_size=self.patch_size,
                image_size=self.image_size,
                max_num_tiles=4,
                norm_eps=1e-5,
                intermediate_states=self.indices,
                max_aspect_ratio_id=len(RATIOS),
            ),
            TextHParams(
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.layers,
                num_attention_heads=self.heads,
                num_key_value_heads=self.kv_heads,
                rms_norm_eps=1e-5,
                vocab_size=self.vocab_size,
                cross_attention_layers=self.cross_attention_layers,
                image_token_index=self.vocab_size,
            ),
            ImagePreprocessing(
                tile_size=self.image_size,
                max_num_tiles=4,
                image_mean=(0.48145466, 0.4578275, 0.40821073),
                image_std=(0.26862954, 0.26130258, 0.27577711),
                rescale_factor=1 / 255,
                supported_aspect_ratios=RATIOS,
            ),
        )


Tensors = dict[str, NDArray[np.float32]]


def random_tensors(recipe: Recipe) -> Tensors:
    """Every tensor under its first-generation name; already rounded to ``recipe.dtype``. Gates are far from zero."""
    rng = np.random.default_rng(recipe.seed)
    tensors: Tensors = {}
    for spec in (*language_tensors(recipe.hparams.text), *mmproj_tensors(recipe.hparams)):
        if spec.hf_name in tensors:
            continue
        values = rng.standard_normal(spec.hf_shape, dtype=np.float32)
        last = spec.hf_name.rpartition(".")[2]
        if last in GATES:
            values = 0.7 + 0.1 * values
        elif "norm" in spec.hf_name and last == "weight":
            values = 1 + 0.1 * values
        else:
            values = np.float32(1.5 / spec.hf_shape[-1] ** 0.5) * values
        tensors[spec.hf_name] = _decode(_encode(values, recipe.dtype), recipe.dtype).reshape(spec.hf_shape)
    if recipe.tied:
        del tensors["language_model.lm_head.weight"]
    return tensors


def write_checkpoint(folder: Path, recipe: Recipe = Recipe(), tensors: Tensors | None = None) -> Tensors:
    """Writes the folder; gives the values it holds, by first-generation name."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(recipe) if tensors is None else tensors
    write_json(folder / "config.json", config(recipe))
    write_json(folder / "preprocessor_config.json", preprocessor_config(recipe.hparams.image))
    write_json(
        folder / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1]}
    )
    write_tokenizer(folder, recipe.vocab_size)
    named = [(_disk_name(name, recipe.generation), values) for name, values in tensors.items()]
    if recipe.shards == 1:
        write_safetensors(folder / "model.safetensors", dict(named), recipe.dtype)
        return tensors
    weight_map = {}
    for i in range(recipe.shards):
        file = f"model-{i + 1:05d}-of-{recipe.shards:05d}.safetensors"
        part = dict(named[i :: recipe.shards])
        write_safetensors(folder / file, part, recipe.dtype)
        weight_map.update(dict.fromkeys(part, file))
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return tensors


def config(recipe: Recipe) -> dict[str, Any]:
    """config.json: transformers 4 keys, or 5's ``rope_parameters`` with the second generation of names."""
    text: dict[str, Any] = {
        "model_type": "mllama_text_model",
        "bos_token_id": recipe.vocab_size - len(SPECIAL),
        "cross_attention_layers": list(recipe.cross_attention_layers),
        "eos_token_id": recipe.vocab_size - 1,
        "hidden_act": "silu",
        "hidden_size": recipe.hidden_size,
        "intermediate_size": recipe.intermediate_size,
        "max_position_embeddings": 512,
        "num_attention_heads": recipe.heads,
        "num_hidden_layers": recipe.layers,
        "num_key_value_heads": recipe.kv_heads,
        "pad_token_id": recipe.vocab_size - 5,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": recipe.tied,
        "vocab_size": recipe.vocab_size,
    }
    if recipe.generation == 1:
        text |= {"rope_scaling": dict(recipe.rope) or None, "rope_theta": 500000.0}
    else:
        text["rope_parameters"] = {"rope_type": "default", **recipe.rope, "rope_theta": 500000.0}
    whole = {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": recipe.vocab_size,
        "model_type": "mllama",
        "text_config": text,
        "vision_config": vision_config(recipe.hparams),
    }
    if recipe.transformers_version is not None:
        whole["transformers_version"] = recipe.transformers_version
    return whole


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Llama-3's kind of tokenizer: all bytes, as many merges as fit, the special tokens last, ``<|image|>`` beyond.

    ``vocab_size`` from 264 up to some tens of thousands.
    """
    alphabet = sorted(byte_alphabet())
    merges: list[tuple[str, str]] = []
    words = ["th", "the", "an", "and", "Ġ1", "12", "ab", "abc", "Ġt", "Ġth", "Ġthe", "ĊĊ", "in", "ing", "er", "on"]
    words += [alphabet[i % 256] + alphabet[128 + i // 256] for i in range(vocab_size)]
    for word in words[: vocab_size - 256 - len(SPECIAL)]:
        known = set(alphabet) | {a + b for a, b in merges}
        merges.append((word[:-1], word[-1]) if word[:-1] in known else (word[0], word[1:]))
    tokens = [*alphabet, *(a + b for a, b in merges), *SPECIAL]
    normal = len(tokens) - len(SPECIAL)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": normal + i, "content": token, **flags} for i, token in enumerate((*SPECIAL, "<|image|>"))]
    bos = {"SpecialToken": {"id": SPECIAL[0], "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": LLAMA3_PATTERN}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {SPECIAL[0]: {"id": SPECIAL[0], "ids": [normal], "tokens": [SPECIAL[0]]}},
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {token: i for i, token in enumerate(tokens[:normal])},
            "merges": [list(pair) for pair in merges],
        },
    }
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(
        folder / "tokenizer_config.json",
        {"bos_token": SPECIAL[0], "eos_token": "<|eot_id|>", "chat_template": CHAT_TEMPLATE},
    )


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(rest)}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


def edit_json(path: Path, **changes: Any) -> None:
    """Sets keys, given as ``section__key``; the value ``...`` removes one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, *keys = content, *name.split("__")
        for key in keys[:-1]:
            section = section[key]
        if value is ...:
            section.pop(keys[-1])
        else:
            section[keys[-1]] = value
    write_json(path, content)


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[np.float32]], dtype: str) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, values in tensors.items():
        raw = _encode(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def _encode(values: NDArray[np.float32], dtype: str) -> bytes:
    if dtype == "F32":
        return values.astype("<f4").tobytes()
    if dtype == "F16":
        return values.astype("<f2").tobytes()
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()  # BF16, cut off: any 16 bits will do


def _decode(raw: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f4" if dtype == "F32" else "<f2").astype(np.float32)


def _disk_name(name: str, generation: int) -> str:
    if generation == 1:
        return name
    for ours, theirs in (
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_model.", "model.vision_model."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise ValueError(name)


TINY = Recipe()
DEEP = replace(TINY, layers=14, cross_attention_layers=(3, 8), heads=8, kv_heads=2)  # 12 text layers
NARROW = replace(TINY, hidden_size=96, intermediate_size=144, heads=4, kv_heads=4)  # no K-quant fits: fallbacks
