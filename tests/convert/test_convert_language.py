"""The language file in plain llama-cpp-python, which knows nothing of cotcli: a text model like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.small_checkpoints import TINY, Recipe, Tensors, byte_alphabet, write_checkpoint
from convert import convert

IDS = [313, 7, 100, 42, 255, 260, 3, 3, 199, 12, 64, 301]
F32, FLASH_ATTENTION_OFF = 0, 0


def text_logits(recipe: Recipe, tensors: Tensors, ids: list[int]) -> NDArray[np.float64]:
    """Llama-3 over the checkpoint's self-attention layers alone, as transformers runs mllama without an image.

    Written from the architecture's description in HF's layout: rotary pairs half a head apart. Shape (tokens, vocab).
    """
    heads, kv_heads = recipe.heads, recipe.kv_heads
    d_head = recipe.hidden_size // heads

    def weight(name: str) -> NDArray[np.float64]:
        return tensors[f"language_model.model.{name}.weight"].astype(np.float64)

    def rms_norm(x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        normed: NDArray[np.float64] = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return normed * weight(name)

    frequencies = 500000.0 ** (-np.arange(0, d_head, 2) / d_head)
    if recipe.rope:
        turns = 64 * frequencies / (2 * np.pi)
        between = (turns - 1) / 3
        frequencies *= np.where(turns > 4, 1, np.where(turns < 1, 1 / 8, (1 - between) / 8 + between))
    angle = np.arange(len(ids))[:, None, None] * frequencies
    cos, sin = np.cos(angle), np.sin(angle)

    def rotate(x: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = np.split(x, 2, axis=-1)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin], axis=-1)

    h = weight("embed_tokens")[ids]
    for layer in range(recipe.layers):
        if layer in recipe.cross_attention_layers:
            continue
        block = f"layers.{layer}"
        x = rms_norm(h, f"{block}.input_layernorm")
        q = rotate((x @ weight(f"{block}.self_attn.q_proj").T).reshape(len(ids), heads, d_head))
        k = rotate((x @ weight(f"{block}.self_attn.k_proj").T).reshape(len(ids), kv_heads, d_head))
        v = (x @ weight(f"{block}.self_attn.v_proj").T).reshape(len(ids), kv_heads, d_head)
        k, v = np.repeat(k, heads // kv_heads, axis=1), np.repeat(v, heads // kv_heads, axis=1)
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(d_head)
        scores = np.where(np.tri(len(ids), dtype=bool), scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        attended = np.einsum("hqk,khd->qhd", scores, v).reshape(len(ids), -1)
        h = h + attended @ weight(f"{block}.self_attn.o_proj").T
        x = rms_norm(h, f"{block}.post_attention_layernorm")
        gate = x @ weight(f"{block}.mlp.gate_proj").T
        x = gate / (1 + np.exp(-gate)) * (x @ weight(f"{block}.mlp.up_proj").T)
        h = h + x @ weight(f"{block}.mlp.down_proj").T
    logits: NDArray[np.float64] = rms_norm(h, "norm") @ tensors["language_model.lm_head.weight"].astype(np.float64).T
    return logits


def load(path: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(
        str(path), n_ctx=64, logits_all=True, type_k=F32, type_v=F32, flash_attn=False, verbose=False, n_threads=1
    )


@pytest.mark.parametrize(
    "recipe",
    [TINY, replace(TINY, rope={}), replace(TINY, kv_heads=4, cross_attention_layers=(2,)), replace(TINY, kv_heads=1)],
    ids=["grouped heads", "without llama3 scaling", "one key head each", "one key head for all"],
)
def test_logits_of_the_text_model(recipe: Recipe, tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path / "tiny", recipe)
    model = load(convert(tmp_path / "tiny", tmp_path, "f32").language)
    model.eval(IDS)
    ours = np.array(model.scores[: len(IDS)])
    expected = text_logits(recipe, tensors, IDS)
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) < 1e-5
    model.close()


def test_generates_the_same_tokens(tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path / "tiny", TINY)
    expected = list(IDS)
    while len(expected) < len(IDS) + 12:
        expected.append(int(text_logits(TINY, tensors, expected)[-1].argmax()))
    model = load(convert(tmp_path / "tiny", tmp_path, "f32").language)
    generated = model.generate(IDS, temp=0.0, repeat_penalty=1.0)
    assert [next(generated) for _ in range(12)] == expected[len(IDS) :]
    model.close()


@pytest.mark.parametrize(("quantization", "limit"), [("bf16", 0.02), ("q8_0", 0.05), ("q4_k_m", 0.5)])
def test_quantized_models_load_and_stay_near(quantization: str, limit: float, tmp_path: Path) -> None:
    tensors = write_checkpoint(tmp_path / "tiny", TINY)
    model = load(convert(tmp_path / "tiny", tmp_path, quantization).language)
    space = sorted(byte_alphabet()).index("Ġ")
    assert model.tokenize(b"the and") == [313, 257, space, 259]  # bytes, th, the, an, and; then the special tokens
    model.eval(IDS)
    expected = text_logits(TINY, tensors, IDS)
    error = np.linalg.norm(np.array(model.scores[: len(IDS)]) - expected) / np.linalg.norm(expected)
    assert 1e-4 < error < limit
    assert model.metadata["tokenizer.chat_template"].startswith("{{- bos_token }}")
    model.close()
