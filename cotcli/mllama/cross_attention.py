"""The cross-attention layers: an image's keys and values, and the graphs that update hidden states with them.

Follows transformers' ``MllamaCrossAttentionDecoderLayer``; there is no RoPE here. Knows columns of hidden states, not
tokens or sequences: ``hook.py`` says which columns attend to which image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cotcli.errors import CotcliError
from cotcli.mllama.chunks import CPU_FLOPS, split_rows
from cotcli.mllama.hparams import HParams, TextHParams
from cotcli.mllama.tensor_names import cross_attention_tensors
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml, ggml_backend
from cotcli.native.ggml import Arena, Tensor

# Columns whose scores are held at once: at 11B shapes 64 columns take 52 MB.
QUERY_CHUNK = 64


@dataclass(frozen=True)
class ColumnGroup:
    """Neighbouring columns that attend to one image.

    ``sees_image`` is False for tokens before the image token. transformers masks those fully, by which they attend to
    *all* tiles alike, padding tiles too, and drops their MLP term (``full_text_row_masked_out_mask``).
    """

    start: int
    count: int
    image: ImageKV
    sees_image: bool

    @property
    def end(self) -> int:
        return self.start + self.count


class ImageKV:
    """Keys and values of one image for every cross-attention layer, each on its layer's device.

    Layouts in ggml's order: k (head_dim, tokens, kv_heads), already normed; v (tokens, head_dim, kv_heads). The tokens
    of real tiles come first. Reference-counted by the engine: ``retain`` and ``release``.
    """

    def __init__(
        self,
        layers: Sequence[CrossAttentionLayer],
        states: npt.NDArray[np.float32],
        n_real: int,
        kv_type: int,
    ) -> None:
        self.n_all, self.n_real = len(states), n_real
        self._references = 1
        self.k: dict[int, Tensor] = {}
        self.v: dict[int, Tensor] = {}
        self._owned: list[ggml.Handle] = []
        backends = {layer.backend.device: layer.backend for layer in layers}
        try:
            for backend in backends.values():
                self._compute([layer for layer in layers if layer.backend is backend], states, kv_type)
        except BaseException:
            self.close()
            raise

    def _compute(self, layers: Sequence[CrossAttentionLayer], states: npt.NDArray[np.float32], kv_type: int) -> None:
        backend, hp = layers[0].backend, layers[0].hparams
        arena = Arena(2 * len(layers))
        for layer in layers:
            self.k[layer.index] = arena.tensor(kv_type, hp.head_dim, self.n_all, hp.num_key_value_heads)
            self.v[layer.index] = arena.tensor(kv_type, self.n_all, hp.head_dim, hp.num_key_value_heads)
        self._owned.append(arena)
        self._owned.insert(0, backend.allocate(arena))  # buffers are closed before the tensors in them
        with Arena(1) as inputs, ggml_backend.GraphAllocator(backend) as allocator:
            source = inputs.tensor(ggml.F32, hp.hidden_size, self.n_all)
            with backend.allocate(inputs):
                ggml_backend.set_data(source, np.ascontiguousarray(states, np.float32))
                for layer in layers:
                    flops = 4.0 * hp.hidden_size * hp.num_key_value_heads * hp.head_dim
                    for start, count in split_rows(0, self.n_all, flops, CPU_FLOPS):
                        with Arena(24, 32) as graph_arena:
                            outputs = layer.keys_and_values(
                                graph_arena, source, start, count, self.k[layer.index], self.v[layer.index]
                            )
                            graph = graph_arena.graph(*outputs)
                            allocator.allocate(graph)
                            backend.compute(graph)

    def retain(self) -> ImageKV:
        self._references += 1
        return self

    def release(self) -> None:
        """Frees the memory when nobody holds it any more."""
        self._references -= 1
        if self._references == 0:
            self.close()

    @property
    def alive(self) -> bool:
        return self._references > 0

    def close(self) -> None:
        """Frees the memory now, whoever holds it: for the engine's end."""
        for owner in self._owned:
            owner.close()
        self._owned.clear()


class CrossAttentionLayer:
    """One layer's weights on one device, and its graphs.

    Args:
        file: the mmproj file.
        index: the layer's index in the checkpoint.
        backend: where its input lives and where it computes.
    """

    def __init__(self, file: WeightFile, index: int, backend: ggml_backend.Backend) -> None:
        self.hparams: TextHParams = file.hparams.text
        self.index, self.backend = index, backend
        prefix = f"blk.{index}."
        names = [spec.gguf_name for spec in cross_attention_tensors(self.hparams, index)]
        self._weights = file.place(names, backend)
        self._prefix = prefix
        # A gate is one number: a constant of the graph rather than a tensor in it.
        self._attn_gate = math.tanh(file.array(f"{prefix}cross_attn_attn_gate")[0])
        self._mlp_gate = math.tanh(file.array(f"{prefix}cross_attn_mlp_gate")[0])

    def close(self) -> None:
        self._weights.close()

    def _weight(self, name: str) -> Tensor:
        return self._weights[f"{self._prefix}{name}"]

    def keys_and_values(
        self, arena: Arena, states: Tensor, start: int, count: int, k_place: Tensor, v_place: Tensor
    ) -> list[Tensor]:
        """Nodes that project rows [start, start + count) of ``states`` (hidden_size, tokens) into both places."""
        hp, w = self.hparams, self._weight
        heads = (hp.head_dim, hp.num_key_value_heads, count)
        rows = arena.view(states, (hp.hidden_size, count), offset=start * hp.hidden_size * 4)
        k = arena.reshape(arena.mul_mat(w("cross_attn_k.weight"), rows), *heads)
        k = arena.mul(arena.rms_norm(k, hp.rms_norm_eps), w("cross_attn_k_norm.weight"))
        v = arena.reshape(arena.mul_mat(w("cross_attn_v.weight"), rows), *heads)
        k_strides, v_strides = (list(ggml.fields(place).nb) for place in (k_place, v_place))
        k_shape = (hp.head_dim, count, hp.num_key_value_heads)
        v_shape = (count, hp.head_dim, hp.num_key_value_heads)
        k_rows = arena.view(k_place, k_shape, k_strides[1:3], start * int(k_strides[1]))
        v_rows = arena.view(v_place, v_shape, v_strides[1:3], start * int(v_strides[0]))
        return [
            arena.cpy(arena.permute(k, 0, 2, 1, 3), k_rows),
            arena.cpy(arena.permute(v, 1, 2, 0, 3), v_rows),
        ]

    def update(self, arena: Arena, hidden: Tensor, groups: Sequence[ColumnGroup]) -> Tensor:
        """The node that turns ``hidden`` (hidden_size, columns), float32, into the layer's output, in place.

        ``groups`` cover the columns without a gap; either all see their image, or none does.
        """
        hp, w = self.hparams, self._weight
        columns = groups[-1].end
        normed = arena.mul(arena.rms_norm(hidden, hp.rms_norm_eps), w("attn_norm.weight"))
        q = arena.mul_mat(w("cross_attn_q.weight"), normed)
        q = arena.reshape(q, hp.head_dim, hp.num_attention_heads, columns)
        q = arena.mul(arena.rms_norm(q, hp.rms_norm_eps), w("cross_attn_q_norm.weight"))
        attended: Tensor | None = None
        for group in groups:
            for start in range(group.start, group.end, QUERY_CHUNK):
                count = min(QUERY_CHUNK, group.end - start)
                part = self._attend(arena, q, start, count, group)
                attended = part if attended is None else arena.concat(attended, part, 1)
        if attended is None:
            raise CotcliError("a cross-attention layer was asked to update no columns")
        delta = arena.scale(arena.mul_mat(w("cross_attn_output.weight"), attended), self._attn_gate)
        hidden = arena.add_inplace(hidden, delta)
        if not groups[0].sees_image:
            return hidden
        normed = arena.mul(arena.rms_norm(hidden, hp.rms_norm_eps), w("ffn_norm.weight"))
        gate = arena.mul_mat(w("ffn_gate.weight"), normed)
        up = arena.mul_mat(w("ffn_up.weight"), normed)
        delta = arena.mul_mat(w("ffn_down.weight"), arena.swiglu_split(gate, up))
        return arena.add_inplace(hidden, arena.scale(delta, self._mlp_gate))

    def _attend(self, arena: Arena, q: Tensor, start: int, count: int, group: ColumnGroup) -> Tensor:
        """Attention of columns [start, start + count) of q (head_dim, heads, columns); (hidden_size, count)."""
        hp = self.hparams
        kv_heads = hp.num_key_value_heads
        n_rep = hp.num_attention_heads // kv_heads
        n_keys = group.image.n_real if group.sees_image else group.image.n_all
        # The n_rep query heads of a key-value head are neighbours: as rows of one matrix they read each key once.
        shape = (hp.head_dim, n_rep, kv_heads, count)
        head_bytes = hp.head_dim * 4
        strides = (head_bytes, head_bytes * n_rep, head_bytes * hp.num_attention_heads)
        queries = arena.view(q, shape, strides, start * head_bytes * hp.num_attention_heads)
        if count > 1:
            queries = arena.cont(arena.permute(queries, 0, 1, 3, 2))
        queries = arena.reshape(queries, hp.head_dim, n_rep * count, kv_heads)
        k, v = group.image.k[self.index], group.image.v[self.index]
        keys = arena.view(k, (hp.head_dim, n_keys, kv_heads))
        values = arena.view(v, (n_keys, hp.head_dim, kv_heads))
        weights = arena.soft_max_ext(arena.mul_mat(keys, queries), hp.head_dim**-0.5)
        out = arena.mul_mat(values, weights)
        if count > 1:
            out = arena.reshape(out, hp.head_dim, n_rep, count, kv_heads)
            out = arena.cont(arena.permute(out, 0, 1, 3, 2))
        return arena.reshape(out, hp.hidden_size, count)


def image_memory(hparams: HParams, kv_bytes: int) -> int:
    """Bytes of one image's keys and values in one layer; ``kv_bytes`` are those of one value."""
    text, vision = hparams.text, hparams.vision
    return 2 * vision.max_num_tiles * vision.num_patches * text.num_key_value_heads * text.head_dim * kv_bytes


def working_memory(hparams: HParams, columns: int) -> int:
    """Scratch bytes of ``update`` for so many columns: the scores of a chunk, or the MLP's three products."""
    text, n_keys = hparams.text, hparams.vision.max_num_tiles * hparams.vision.num_patches
    scores = min(columns, QUERY_CHUNK) * text.num_attention_heads * n_keys + 2 * columns * text.hidden_size
    return 4 * max(scores, columns * (3 * text.intermediate_size + text.hidden_size))
