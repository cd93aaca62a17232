"""The bundled model as the checkpoint that it could have been converted from, made out of its GGUF pair.

What it was trained with is not kept. Its quantized weights, taken as float32, quantize to themselves again, so that
converting this gives the tensors of the bundled pair, and a model that answers as that does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, TokenType
from gguf.quants import dequantize

from benchmarks.small_checkpoints import Recipe, Tensors, edit_json, write_checkpoint
from cotcli.mllama.hparams import HParams
from cotcli.mllama.tensor_names import Role, TensorSpec, language_tensors, mmproj_tensors
from cotcli.registry import resolve


def write_bundled_checkpoint(folder: Path, shards: int) -> None:
    """Writes the folder, in that many shards."""
    pair = resolve("demo")
    language, mmproj = GGUFReader(pair.language), GGUFReader(pair.mmproj)
    metadata = {name: field.contents() for name, field in language.fields.items()}
    hparams = HParams.from_gguf({name: field.contents() for name, field in mmproj.fields.items()}, "demo")
    text, vision = hparams.text, hparams.vision
    recipe = Recipe(
        hidden_size=text.hidden_size,
        intermediate_size=text.intermediate_size,
        layers=text.num_hidden_layers,
        cross_attention_layers=text.cross_attention_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        vocab_size=text.vocab_size,
        vision_hidden_size=vision.hidden_size,
        vision_intermediate_size=vision.intermediate_size,
        vision_heads=vision.attention_heads,
        vision_layers=vision.num_hidden_layers,
        global_layers=vision.num_global_layers,
        indices=vision.intermediate_states,
        patch_size=vision.patch_size,
        image_size=vision.image_size,
        rope={},
        shards=shards,
    )
    write_checkpoint(folder, recipe, _tensors(hparams, language, mmproj))
    edit_json(
        folder / "config.json",
        text_config__rope_theta=metadata["llama.rope.freq_base"],
        text_config__max_position_embeddings=metadata["llama.context_length"],
    )
    edit_json(folder / "generation_config.json", do_sample=False)
    edit_json(folder / "tokenizer_config.json", chat_template=metadata["tokenizer.chat_template"])
    _rewrite_tokenizer(folder / "tokenizer.json", metadata, hparams.text.image_token_index)


def _tensors(hparams: HParams, language: GGUFReader, mmproj: GGUFReader) -> Tensors:
    tensors: Tensors = {}
    for reader, specs in ((language, language_tensors(hparams.text)), (mmproj, mmproj_tensors(hparams))):
        stored = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
        assert "rope_freqs.weight" not in stored
        for spec in specs:
            values = np.asarray(stored[spec.gguf_name], np.float32).reshape(spec.shape)
            if spec.row is not None:
                tensors[spec.hf_name][spec.row] = values
            else:
                tensors[spec.hf_name] = _as_stored(spec, values, hparams.text.head_dim)
    return tensors


def _as_stored(spec: TensorSpec, values: Any, head_dim: int) -> Any:
    """One tensor as a checkpoint has it: rotary halves apart, and the rows that the GGUF file leaves out as zeros."""
    if spec.role in (Role.ROPE_Q, Role.ROPE_K):
        pairs = values.reshape(-1, head_dim // 2, 2, values.shape[-1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(spec.hf_shape)
    if spec.role is Role.EMBEDDING:
        table = np.zeros(spec.hf_shape, np.float32)
        table[: len(values)] = values
        return table
    return values.reshape(spec.hf_shape)


def _rewrite_tokenizer(path: Path, metadata: dict[str, Any], image_token: int) -> None:
    """The bundled model's own vocabulary in place of the one of that size that ``write_checkpoint`` made up."""
    content = json.loads(path.read_text(encoding="utf-8"))
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    added = {i: token for i, token in enumerate(tokens) if kinds[i] == TokenType.CONTROL} | {image_token: "<|image|>"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    content["added_tokens"] = [{"id": i, "content": token, **flags} for i, token in added.items()]
    content["model"]["vocab"] = {token: i for i, token in enumerate(tokens) if i not in added}
    content["model"]["merges"] = [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]]
    path.write_text(json.dumps(content), encoding="utf-8")
