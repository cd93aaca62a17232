"""The one table of mllama tensors: HF name, GGUF name and shape, for both files of a pair.

Shared by convert, which walks it to write, and by the runtime, which walks it to load and check. Knows no bytes and no
quantization. Shapes are NumPy's (rows, columns); ggml's ``ne`` is the reverse.
HF names are those on disk in the first naming generation; ``convert.checkpoint`` maps the second one to them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from cotcli.mllama.hparams import HParams, TextHParams, VisionHParams


class Role(Enum):
    """What a tensor is, as far as its type and layout in the file depend on it."""

    MATRIX = "matrix"  # multiplied with activations: may be quantized
    NARROW_MATRIX = "narrow_matrix"  # multiplied, but its rows are no multiple of 32: F16 at the smallest
    ROPE_Q = "rope_q"  # self-attention query: rows permuted for interleaved rotary pairs
    ROPE_K = "rope_k"
    EMBEDDING = "embedding"  # embed_tokens: its rows from vocab_size on are not in the language file
    VECTOR = "vector"  # norms, biases, gates, position tables: always F32


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a GGUF file and where it comes from.

    ``hf_shape`` is the shape on disk in the checkpoint, ``shape`` the one in the GGUF file; they hold the same values
    except for ``EMBEDDING``, where the file has the first ``shape[0]`` rows, and ``row``, where it has that row alone.
    """

    gguf_name: str
    hf_name: str
    shape: tuple[int, ...]
    hf_shape: tuple[int, ...]
    role: Role
    row: int | None = None


TEXT = "language_model.model"


def _plain(gguf_name: str, hf_name: str, shape: tuple[int, ...], role: Role) -> TensorSpec:
    return TensorSpec(gguf_name, hf_name, shape, shape, role)


def language_tensors(text: TextHParams) -> Iterator[TensorSpec]:
    """The language file: llama.cpp's ``llama`` architecture, self-attention layers renumbered from 0."""
    n_embd, n_ff = text.hidden_size, text.intermediate_size
    n_kv = text.num_key_value_heads * text.head_dim
    table = (text.vocab_size + 8, n_embd)  # transformers MllamaTextModel: embed_tokens has eight rows more than lm_head
    yield TensorSpec(
        "token_embd.weight", f"{TEXT}.embed_tokens.weight", (text.vocab_size, n_embd), table, Role.EMBEDDING
    )
    yield _plain("output_norm.weight", f"{TEXT}.norm.weight", (n_embd,), Role.VECTOR)
    yield _plain("output.weight", "language_model.lm_head.weight", (text.vocab_size, n_embd), Role.MATRIX)
    for new, old in enumerate(text.self_attention_layers):
        blk, hf = f"blk.{new}", f"{TEXT}.layers.{old}"
        yield _plain(f"{blk}.attn_norm.weight", f"{hf}.input_layernorm.weight", (n_embd,), Role.VECTOR)
        yield _plain(f"{blk}.attn_q.weight", f"{hf}.self_attn.q_proj.weight", (n_embd, n_embd), Role.ROPE_Q)
        yield _plain(f"{blk}.attn_k.weight", f"{hf}.self_attn.k_proj.weight", (n_kv, n_embd), Role.ROPE_K)
        yield _plain(f"{blk}.attn_v.weight", f"{hf}.self_attn.v_proj.weight", (n_kv, n_embd), Role.MATRIX)
        yield _plain(f"{blk}.attn_output.weight", f"{hf}.self_attn.o_proj.weight", (n_embd, n_embd), Role.MATRIX)
        yield _plain(f"{blk}.ffn_norm.weight", f"{hf}.post_attention_layernorm.weight", (n_embd,), Role.VECTOR)
        yield from _text_mlp(blk, hf, n_embd, n_ff)


def _text_mlp(blk: str, hf: str, n_embd: int, n_ff: int) -> Iterator[TensorSpec]:
    yield _plain(f"{blk}.ffn_gate.weight", f"{hf}.mlp.gate_proj.weight", (n_ff, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.ffn_up.weight", f"{hf}.mlp.up_proj.weight", (n_ff, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.ffn_down.weight", f"{hf}.mlp.down_proj.weight", (n_embd, n_ff), Role.MATRIX)


def mmproj_tensors(hparams: HParams) -> Iterator[TensorSpec]:
    """The mmproj file: image-token embedding, vision tower, projector, cross-attention layers."""
    text, vision = hparams.text, hparams.vision
    yield TensorSpec(
        "mm.image_token_embd.weight",
        f"{TEXT}.embed_tokens.weight",
        (text.hidden_size,),
        (text.vocab_size + 8, text.hidden_size),
        Role.VECTOR,
        row=text.image_token_index,
    )
    yield from _vision_tensors(vision)
    out, n_embd = vision.vision_output_dim, text.hidden_size
    yield _plain("mm.0.weight", "multi_modal_projector.weight", (n_embd, out), Role.MATRIX)
    yield _plain("mm.0.bias", "multi_modal_projector.bias", (n_embd,), Role.VECTOR)
    for layer in text.cross_attention_layers:
        yield from cross_attention_tensors(text, layer)


def cross_attention_tensors(text: TextHParams, layer: int) -> Iterator[TensorSpec]:
    """One cross-attention layer, under its index in the checkpoint (transformers MllamaCrossAttentionDecoderLayer)."""
    n_embd, n_ff, d_head = text.hidden_size, text.intermediate_size, text.head_dim
    n_kv = text.num_key_value_heads * d_head
    blk, hf = f"blk.{layer}", f"{TEXT}.layers.{layer}"
    yield _plain(f"{blk}.attn_norm.weight", f"{hf}.input_layernorm.weight", (n_embd,), Role.VECTOR)
    yield _plain(f"{blk}.cross_attn_q.weight", f"{hf}.cross_attn.q_proj.weight", (n_embd, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.cross_attn_k.weight", f"{hf}.cross_attn.k_proj.weight", (n_kv, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.cross_attn_v.weight", f"{hf}.cross_attn.v_proj.weight", (n_kv, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.cross_attn_output.weight", f"{hf}.cross_attn.o_proj.weight", (n_embd, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.cross_attn_q_norm.weight", f"{hf}.cross_attn.q_norm.weight", (d_head,), Role.VECTOR)
    yield _plain(f"{blk}.cross_attn_k_norm.weight", f"{hf}.cross_attn.k_norm.weight", (d_head,), Role.VECTOR)
    yield _plain(f"{blk}.cross_attn_attn_gate", f"{hf}.cross_attn_attn_gate", (1,), Role.VECTOR)
    yield _plain(f"{blk}.ffn_norm.weight", f"{hf}.post_attention_layernorm.weight", (n_embd,), Role.VECTOR)
    yield from _text_mlp(blk, hf, n_embd, n_ff)
    yield _plain(f"{blk}.cross_attn_mlp_gate", f"{hf}.cross_attn_mlp_gate", (1,), Role.VECTOR)


def _vision_tensors(vision: VisionHParams) -> Iterator[TensorSpec]:
    n_embd, patches = vision.hidden_size, vision.num_patches
    ratios, tile_row = vision.max_aspect_ratio_id + 1, vision.max_num_tiles * n_embd
    patch = (n_embd, 3, vision.patch_size, vision.patch_size)
    hf = "vision_model"
    # The convolution's stride is its kernel, so it is a matrix over flattened patches (channel, row, column).
    yield TensorSpec(
        "v.patch_embd.weight",
        f"{hf}.patch_embedding.weight",
        (n_embd, vision.patch_width),
        patch,
        Role.MATRIX if vision.patch_width % 32 == 0 else Role.NARROW_MATRIX,
    )
    yield _plain("v.class_embd", f"{hf}.class_embedding", (n_embd,), Role.VECTOR)
    yield _plain("v.position_embd.weight", f"{hf}.gated_positional_embedding.embedding", (patches, n_embd), Role.VECTOR)
    yield _plain("v.position_embd.gate", f"{hf}.gated_positional_embedding.gate", (1,), Role.VECTOR)
    yield _plain(
        "v.tile_position_embd.weight",
        f"{hf}.gated_positional_embedding.tile_embedding.weight",
        (ratios, tile_row * patches),
        Role.VECTOR,
    )
    for when in ("pre", "post"):
        for part, shape in (("embedding.weight", (ratios, tile_row)), ("gate", (1,))):
            yield _plain(
                f"v.{when}_tile_embd.{part.removeprefix('embedding.')}",
                f"{hf}.{when}_tile_positional_embedding.{part}",
                shape,
                Role.VECTOR,
            )
        for part in ("weight", "bias"):
            yield _plain(f"v.{when}_ln.{part}", f"{hf}.layernorm_{when}.{part}", (n_embd,), Role.VECTOR)
    for i in range(vision.num_hidden_layers):
        yield from _vision_layer(vision, f"v.blk.{i}", f"{hf}.transformer.layers.{i}", gated=False)
    for i in range(vision.num_global_layers):
        yield from _vision_layer(vision, f"v.global_blk.{i}", f"{hf}.global_transformer.layers.{i}", gated=True)


def _vision_layer(vision: VisionHParams, blk: str, hf: str, gated: bool) -> Iterator[TensorSpec]:
    n_embd, n_ff = vision.hidden_size, vision.intermediate_size
    for ours, theirs in (("ln1", "input_layernorm"), ("ln2", "post_attention_layernorm")):
        for part in ("weight", "bias"):
            yield _plain(f"{blk}.{ours}.{part}", f"{hf}.{theirs}.{part}", (n_embd,), Role.VECTOR)
    for ours, theirs in (("attn_q", "q_proj"), ("attn_k", "k_proj"), ("attn_v", "v_proj"), ("attn_out", "o_proj")):
        yield _plain(f"{blk}.{ours}.weight", f"{hf}.self_attn.{theirs}.weight", (n_embd, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.ffn_up.weight", f"{hf}.mlp.fc1.weight", (n_ff, n_embd), Role.MATRIX)
    yield _plain(f"{blk}.ffn_up.bias", f"{hf}.mlp.fc1.bias", (n_ff,), Role.VECTOR)
    yield _plain(f"{blk}.ffn_down.weight", f"{hf}.mlp.fc2.weight", (n_embd, n_ff), Role.MATRIX)
    yield _plain(f"{blk}.ffn_down.bias", f"{hf}.mlp.fc2.bias", (n_embd,), Role.VECTOR)
    if gated:
        yield _plain(f"{blk}.attn_gate", f"{hf}.gate_attn", (1,), Role.VECTOR)
        yield _plain(f"{blk}.ffn_gate", f"{hf}.gate_ffn", (1,), Role.VECTOR)
