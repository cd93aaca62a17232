"""The language file: the self-attention layers as an ordinary ``llama`` model that any llama.cpp tool can run.

Decides metadata and tensors, writes nothing. Follows llama.cpp's own converter for Llama-3: rows of q and k in
interleaved rotary order, llama3 frequency scaling as ``rope_freqs.weight``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from convert.checkpoint import Checkpoint
from convert.config import Llama3Rope
from convert.plan import FilePlan
from convert.quantize import Quantization, language_type
from convert.tokenizer import Vocabulary
from cotcli.mllama.tensor_names import Role, language_tensors

QUANTIZATION_VERSION = 2  # GGML_QNT_VERSION


def plan_language(checkpoint: Checkpoint, vocabulary: Vocabulary, quantization: Quantization, name: str) -> FilePlan:
    config, text = checkpoint.config, checkpoint.config.hparams.text
    plan = FilePlan("llama")
    plan.metadata(
        {
            "general.type": "model",
            "general.name": name,
            "general.quantization_version": QUANTIZATION_VERSION,
            "general.file_type": int(quantization.file_type),
            "llama.context_length": config.context_length,
            "llama.embedding_length": text.hidden_size,
            "llama.block_count": len(text.self_attention_layers),
            "llama.feed_forward_length": text.intermediate_size,
            "llama.attention.head_count": text.num_attention_heads,
            "llama.attention.head_count_kv": text.num_key_value_heads,
            "llama.attention.layer_norm_rms_epsilon": text.rms_norm_eps,
            "llama.rope.freq_base": config.rope_theta,
            "llama.rope.dimension_count": text.head_dim,
            "llama.vocab_size": text.vocab_size,
        }
    )
    for key, value in config.sampling.items():
        if key == "top_k":
            plan.header.add_int32("general.sampling.top_k", int(value))
        else:
            plan.header.add_float32(f"general.sampling.{key}", float(value))
    vocabulary.write(plan.header)
    if config.rope_scaling is not None:
        factors = rope_frequency_factors(text.head_dim, config.rope_theta, config.rope_scaling)
        plan.add_constant("rope_freqs.weight", factors)
    for spec in language_tensors(text):
        plan.add(
            spec,
            language_type(spec, quantization, text),
            checkpoint.tensors[spec.hf_name],
            rope_head_dim=text.head_dim if spec.role in (Role.ROPE_Q, Role.ROPE_K) else None,
        )
    return plan


def rope_frequency_factors(head_dim: int, theta: float, rope: Llama3Rope) -> NDArray[np.float32]:
    """What llama.cpp divides each rotary frequency by: shape (head_dim / 2,), 1 for high frequencies, factor for low.

    Between the two wavelengths the frequency, not the factor, is interpolated (transformers
    ``_compute_llama3_parameters``).
    """
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (i / head_dim)
        if wavelength < rope.original_context / rope.high_freq_factor:
            factors.append(1.0)
        elif wavelength > rope.original_context / rope.low_freq_factor:
            factors.append(rope.factor)
        else:
            smooth = (rope.original_context / wavelength - rope.low_freq_factor) / (
                rope.high_freq_factor - rope.low_freq_factor
            )
            factors.append(1 / ((1 - smooth) / rope.factor + smooth))
    return np.array(factors, np.float32)
