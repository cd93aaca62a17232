"""Which type each tensor gets: llama.cpp's recipes for the language file, ours for the mmproj file.

Knows names, widths and layer counts, no values. The language file follows ``llama_tensor_get_type`` of the pinned
llama.cpp (src/llama-quant.cpp) exactly, so that it is what ``llama_model_quantize`` would write. That rules out
extra bits for the text tensors that are known to suffer (layer 1, down_proj 13 and 18): whoever wants them quantizes
higher as a whole.

The mmproj file has no counterpart in llama.cpp. Its cross-attention layers follow the same recipe, counted among
themselves, except that ``o_proj``, whose error stands out in every study of this model, never falls below Q6_K.
The vision tower and the projector take the vision type, 16 bit unless asked otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf import GGMLQuantizationType as Type
from gguf import LlamaFileType

from cotcli.errors import UsageError
from cotcli.mllama.hparams import TextHParams
from cotcli.mllama.tensor_names import Role, TensorSpec
from cotcli.native.ggml import block_size


@dataclass(frozen=True)
class Quantization:
    """One choice of ``--type``: its name in file names, llama.cpp's file type, the type of most tensors."""

    name: str
    file_type: LlamaFileType
    base: Type

    @property
    def mixed(self) -> bool:
        """Whether some tensors are better than ``base``."""
        return self.name.startswith("Q") and self.base != Type.Q8_0


QUANTIZATIONS = {
    q.name.lower(): q
    for q in (
        Quantization("F32", LlamaFileType.ALL_F32, Type.F32),
        Quantization("F16", LlamaFileType.MOSTLY_F16, Type.F16),
        Quantization("BF16", LlamaFileType.MOSTLY_BF16, Type.BF16),
        Quantization("Q8_0", LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
        Quantization("Q6_K", LlamaFileType.MOSTLY_Q6_K, Type.Q6_K),
        Quantization("Q5_K_M", LlamaFileType.MOSTLY_Q5_K_M, Type.Q5_K),
        Quantization("Q5_K_S", LlamaFileType.MOSTLY_Q5_K_S, Type.Q5_K),
        Quantization("Q4_K_M", LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
        Quantization("Q4_K_S", LlamaFileType.MOSTLY_Q4_K_S, Type.Q4_K),
    )
}
VISION_TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0}
# What a tensor becomes whose rows are no multiple of 256 (llama.cpp's tensor_type_fallback).
_NARROWER = {Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}


def find_quantization(name: str) -> Quantization:
    """By name, in any case.

    Raises:
        UsageError: there is no such type.
    """
    try:
        return QUANTIZATIONS[name.lower()]
    except KeyError:
        raise UsageError(f"unknown type {name!r}", f"Choose one of: {', '.join(QUANTIZATIONS)}") from None


def find_vision_type(name: str | None, quantization: Quantization) -> Type:
    """By name, in any case; None is F16, or F32 beside an F32 language file.

    Raises:
        UsageError: there is no such type.
    """
    if name is None:
        return Type.F32 if quantization.base == Type.F32 else Type.F16
    try:
        return VISION_TYPES[name.lower()]
    except KeyError:
        raise UsageError(f"unknown vision type {name!r}", f"Choose one of: {', '.join(VISION_TYPES)}") from None


def language_type(spec: TensorSpec, quantization: Quantization, text: TextHParams) -> Type:
    """The type of one tensor of the language file: ``llama_tensor_get_type``, for the cases that can arise here."""
    if spec.role is Role.VECTOR:
        return Type.F32
    if quantization.base in (Type.F32, Type.F16, Type.BF16):
        return quantization.base
    width = spec.shape[-1]
    if spec.gguf_name == "output.weight":
        if width % block_size(quantization.base) or quantization.base == Type.Q8_0:
            return _fitting(Type.Q8_0, width)
        return _fitting(Type.Q6_K, width)
    if spec.role is Role.EMBEDDING:
        return _fitting(quantization.base, width)
    _, number, part, _ = spec.gguf_name.split(".")
    layers = len(text.self_attention_layers)
    # llama.cpp calls 80 layers with grouped heads a 70B; the text layers of Llama-3.2-90B-Vision are just that.
    is_70b = layers == 80 and text.num_attention_heads != text.num_key_value_heads
    return _fitting(_layer_type(part, int(number), layers, quantization, is_70b), width)


def mmproj_type(spec: TensorSpec, quantization: Quantization, vision_type: Type, text: TextHParams) -> Type:
    """The type of one tensor of the mmproj file."""
    if spec.role is Role.VECTOR:
        return Type.F32
    width = spec.shape[-1]
    if not spec.gguf_name.startswith("blk."):  # vision tower and projector
        return _fitting(vision_type, width)
    if quantization.base in (Type.F32, Type.F16, Type.BF16):
        return quantization.base
    _, layer, part, _ = spec.gguf_name.split(".")
    if part == "cross_attn_output" and quantization.mixed:
        return _fitting(Type.Q8_0 if quantization.base == Type.Q6_K else Type.Q6_K, width)
    cross = text.cross_attention_layers
    name = {"cross_attn_v": "attn_v"}.get(part, part)
    return _fitting(_layer_type(name, cross.index(int(layer)), len(cross), quantization, is_70b=False), width)


def _layer_type(part: str, layer: int, layers: int, quantization: Quantization, is_70b: bool) -> Type:
    kind = quantization.base
    if part == "attn_v":
        if quantization.name in ("Q4_K_M", "Q5_K_M") and _use_more_bits(layer, layers):
            kind = Type.Q6_K
        elif quantization.name == "Q4_K_S" and layer < 4:
            kind = Type.Q5_K
        if is_70b and kind == Type.Q4_K:
            kind = Type.Q5_K
    elif part == "ffn_down":
        if quantization.name in ("Q4_K_M", "Q5_K_M") and _use_more_bits(layer, layers):
            kind = Type.Q6_K
        elif quantization.name == "Q4_K_S" and layer < layers // 8:
            kind = Type.Q5_K
    return kind


def _use_more_bits(layer: int, layers: int) -> bool:
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _fitting(kind: Type, width: int) -> Type:
    """``kind``, or the nearest type whose blocks divide a row of ``width`` values."""
    if width % block_size(kind):
        kind = _NARROWER.get(kind, kind)
    return Type.F16 if width % block_size(kind) else kind
