"""The vision tower as ggml graphs, on a device that is not the CPU.

Each layer first makes q, k and v of all rows, then does everything else: after that, rows are independent. Both go by
chunks of rows, a graph each, which bounds the scratch memory and lets Ctrl-C be answered in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from cotcli.image import PreparedImage
from cotcli.mllama.chunks import DEVICE_FLOPS, most_rows, split_rows
from cotcli.mllama.hparams import HParams, VisionHParams
from cotcli.mllama.tensor_names import mmproj_tensors
from cotcli.mllama.vision import inputs
from cotcli.mllama.vision.steps import take
from cotcli.mllama.weights import WeightFile
from cotcli.native import ggml, ggml_backend
from cotcli.native.ggml import Arena, Tensor

_GRAPH_SIZE = 64


class DeviceTower:
    """See ``vision.VisionTower``.

    Args:
        file: the open mmproj file.
        backend: where to run; weights are placed there at once.
    """

    def __init__(self, file: WeightFile, backend: ggml_backend.Backend) -> None:
        self._file = file
        self._hparams = file.hparams.vision
        self._backend = backend
        self._weights = file.place(placed_tensors(file.hparams), backend)
        self._allocator = ggml_backend.GraphAllocator(backend)

    def close(self) -> None:
        self._allocator.close()
        self._weights.close()

    def encode(
        self, image: PreparedImage, on_progress: Callable[[int, int], None] | None = None
    ) -> npt.NDArray[np.float32]:
        """See ``vision.VisionTower``."""
        with _Pass(self, image) as steps:
            return take(steps, self._hparams, on_progress)


class _Pass:
    """The working memory of one image's way through the tower."""

    def __init__(self, tower: DeviceTower, image: PreparedImage) -> None:
        self._tower, self._image = tower, image
        hp = tower._hparams
        self._rows = hp.max_num_tiles * hp.num_patches  # rows of the result
        self._real = image.num_tiles * hp.num_patches
        self._all = hp.max_num_tiles * hp.num_padded_patches
        self._arena = Arena(8)
        shape = (hp.head_dim, self._all, hp.attention_heads)
        self._hidden = self._arena.tensor(ggml.F32, hp.hidden_size, self._all)
        self._q = self._arena.tensor(ggml.F32, *shape)
        self._k = self._arena.tensor(ggml.F16, *shape)  # as tensor cores take them
        self._v = self._arena.tensor(ggml.F16, *shape)
        self._stack = self._arena.tensor(ggml.F32, hp.vision_output_dim, self._rows)
        self._states = self._arena.tensor(ggml.F32, tower._file.hparams.text.hidden_size, self._rows)
        self._buffer = tower._backend.allocate(self._arena)

    def __enter__(self) -> _Pass:
        return self

    def __exit__(self, *_: object) -> None:
        self._buffer.close()
        self._arena.close()

    # -- steps, see ``steps.Steps`` -------------------------------------------------------------------------------

    def embed(self) -> None:
        hp, tower = self._tower._hparams, self._tower
        tiles, patches = self._image.num_tiles, hp.num_patches
        table = inputs.position_table(tower._file, self._image.aspect_ratio_id)
        with Arena(32, _GRAPH_SIZE) as arena, Arena(4) as given:
            pixels = given.tensor(ggml.F32, hp.patch_width, (patches - 1) * tiles)
            rows = given.tensor(ggml.F32, hp.hidden_size, self._rows)
            padding = given.tensor(ggml.F32, hp.hidden_size, self._all - self._rows)
            with tower._backend.allocate(given):
                ggml_backend.set_data(pixels, inputs.patches(self._image, hp.patch_size))
                ggml_backend.set_data(rows, table)
                ggml_backend.set_data(padding, np.zeros((self._all - self._rows, hp.hidden_size), np.float32))
                embedded = arena.mul_mat(tower._weights["v.patch_embd.weight"], pixels)
                embedded = arena.reshape(embedded, hp.hidden_size, patches - 1, tiles)
                row_bytes = hp.hidden_size * 4
                # Every tile's first row is its class token; its patches follow.
                places = arena.view(
                    rows, (hp.hidden_size, patches - 1, tiles), (row_bytes, row_bytes * patches), row_bytes
                )
                summed = arena.add_inplace(places, embedded)
                self._compute(
                    arena,
                    summed,
                    arena.cpy(
                        self._layer_norm(arena, rows, "v.pre_ln"),
                        arena.view(self._hidden, (hp.hidden_size, self._rows)),
                    ),
                    arena.cpy(
                        padding,
                        arena.view(
                            self._hidden, (hp.hidden_size, self._all - self._rows), offset=self._rows * row_bytes
                        ),
                    ),
                )

    def keep_state(self, index: int) -> None:
        hp = self._tower._hparams
        for slot, wanted in enumerate(hp.intermediate_states):
            if wanted != index:
                continue
            width = len(hp.intermediate_states)
            with Arena(16, _GRAPH_SIZE) as arena:
                state = arena.view(self._hidden, (1, hp.hidden_size, self._rows), (4, hp.hidden_size * 4))
                place = arena.view(
                    self._stack,
                    (1, hp.hidden_size, self._rows),
                    (width * 4, hp.vision_output_dim * 4),
                    (hp.hidden_size + slot) * 4,
                )
                self._compute(arena, arena.cpy(state, place))

    def layer(self, name: str) -> None:
        hp, weights, file = self._tower._hparams, self._tower._weights, self._tower._file
        gated = name.startswith("v.global_blk")
        attn_gate = inputs.gate(file, f"{name}.attn_gate") if gated else None
        ffn_gate = inputs.gate(file, f"{name}.ffn_gate") if gated else None
        row_bytes = hp.hidden_size * 4
        for start, count in split_rows(0, self._all, 6.0 * hp.hidden_size**2, DEVICE_FLOPS):
            with Arena(32, _GRAPH_SIZE) as arena:
                rows = arena.view(self._hidden, (hp.hidden_size, count), offset=start * row_bytes)
                normed = self._layer_norm(arena, rows, f"{name}.ln1")
                copies = []
                for part, whole in (("q", self._q), ("k", self._k), ("v", self._v)):
                    projected = arena.mul_mat(weights[f"{name}.attn_{part}.weight"], normed)
                    projected = arena.reshape(projected, hp.head_dim, hp.attention_heads, count)
                    place = self._heads(arena, whole, start, count)
                    copies.append(arena.cpy(arena.permute(projected, 0, 2, 1, 3), place))
                self._compute(arena, *copies)
        for start, count, n_keys in self._chunks():
            with Arena(48, _GRAPH_SIZE) as arena:
                q = self._heads(arena, self._q, start, count)
                k, v = (self._heads(arena, x, 0, n_keys) for x in (self._k, self._v))
                attended = arena.flash_attn_ext(q, k, v, hp.head_dim**-0.5)
                attended = arena.reshape(attended, hp.hidden_size, count)
                delta = arena.mul_mat(weights[f"{name}.attn_out.weight"], attended)
                if attn_gate is not None:
                    delta = arena.scale(delta, attn_gate)
                hidden = arena.view(self._hidden, (hp.hidden_size, count), offset=start * row_bytes)
                hidden = arena.add_inplace(hidden, delta)
                up = arena.mul_mat(weights[f"{name}.ffn_up.weight"], self._layer_norm(arena, hidden, f"{name}.ln2"))
                up = arena.gelu_erf(arena.add(up, weights[f"{name}.ffn_up.bias"]))
                delta = arena.mul_mat(weights[f"{name}.ffn_down.weight"], up)
                delta = arena.add(delta, weights[f"{name}.ffn_down.bias"])
                if ffn_gate is not None:
                    delta = arena.scale(delta, ffn_gate)
                self._compute(arena, arena.add_inplace(hidden, delta))

    def between(self) -> None:
        hp, tower = self._tower._hparams, self._tower
        row_bytes = hp.hidden_size * 4
        with Arena(32, _GRAPH_SIZE) as arena, Arena(2) as given:
            embedding = given.tensor(ggml.F32, hp.hidden_size, 1, hp.max_num_tiles)
            with tower._backend.allocate(given):
                tile = inputs.second_tile_embedding(tower._file, self._image.aspect_ratio_id)
                ggml_backend.set_data(embedding, tile)
                normed = self._layer_norm(arena, self._hidden, "v.post_ln")
                outputs = []
                first = 0
                for count in (hp.num_patches, hp.num_padded_patches - hp.num_patches):
                    shape = (hp.hidden_size, count, hp.max_num_tiles)
                    strides = (row_bytes, row_bytes * count)
                    part = arena.view(normed, shape, strides, first * row_bytes)
                    place = arena.view(self._hidden, shape, strides, first * row_bytes)
                    outputs.append(arena.cpy(arena.add(part, embedding), place))
                    first += count * hp.max_num_tiles
                self._compute(arena, *outputs)

    def project(self) -> npt.NDArray[np.float32]:
        hp, weights = self._tower._hparams, self._tower._weights
        width, out = hp.vision_output_dim, self._tower._file.hparams.text.hidden_size
        with Arena(8, _GRAPH_SIZE) as arena:
            final = arena.view(self._hidden, (hp.hidden_size, self._rows))
            place = arena.view(self._stack, (hp.hidden_size, self._rows), (width * 4,))
            self._compute(arena, arena.cpy(final, place))
        for start, count in split_rows(0, self._rows, 2.0 * width * out, DEVICE_FLOPS):
            with Arena(8, _GRAPH_SIZE) as arena:
                rows = arena.view(self._stack, (width, count), offset=start * width * 4)
                place = arena.view(self._states, (out, count), offset=start * out * 4)
                projected = arena.add(arena.mul_mat(weights["mm.0.weight"], rows), weights["mm.0.bias"])
                self._compute(arena, arena.cpy(projected, place))
        return ggml_backend.get_data(self._states)

    # -- parts of steps -------------------------------------------------------------------------------------------

    def _compute(self, arena: Arena, *outputs: Tensor) -> None:
        graph = arena.graph(*outputs)
        self._tower._allocator.allocate(graph)
        self._tower._backend.compute(graph)

    def _layer_norm(self, arena: Arena, x: Tensor, name: str) -> Tensor:
        weights = self._tower._weights
        normed = arena.norm(x, self._tower._hparams.norm_eps)
        return arena.add(arena.mul(normed, weights[f"{name}.weight"]), weights[f"{name}.bias"])

    def _heads(self, arena: Arena, x: Tensor, start: int, count: int) -> Tensor:
        """Rows [start, start + count) of (head_dim, rows, heads)."""
        hp = self._tower._hparams
        row, head = (int(n) for n in ggml.fields(x).nb[1:3])
        return arena.view(x, (hp.head_dim, count, hp.attention_heads), (row, head), start * row)

    def _chunks(self) -> Iterator[tuple[int, int, int]]:
        """(first row, rows, keys they attend to) of each graph of a layer."""
        hp = self._tower._hparams
        for first, end, n_keys in ((0, self._real, self._all), (self._real, self._all, self._real)):
            for start, count in split_rows(first, end, _row_flops(hp, n_keys), DEVICE_FLOPS):
                yield start, count, n_keys


def placed_tensors(hparams: HParams) -> list[str]:
    """The tensors that graphs read, which are placed on the tower's device; the others are looked up in the file."""
    placed = ("v.blk", "v.global_blk", "v.patch", "v.pre_ln", "v.post_ln", "mm.0")
    return [spec.gguf_name for spec in mmproj_tensors(hparams) if spec.gguf_name.startswith(placed)]


def working_memory(hparams: HParams) -> int:
    """Bytes the tower takes while it encodes an image, on top of its weights: what ``_Pass`` holds and its graphs.

    An upper bound: the scratch memory of the largest graph and the inputs of the first do not meet.
    """
    hp, text = hparams.vision, hparams.text
    rows, padded = hp.max_num_tiles * hp.num_patches, hp.max_num_tiles * hp.num_padded_patches
    state = padded * hp.hidden_size * 4
    held = 3 * state  # hidden, q; k and v
    held += rows * (hp.vision_output_dim + text.hidden_size) * 4
    inputs = state + rows * hp.patch_width * 4
    # The largest graphs: the LayerNorm of all rows in ``between``, or the second half of a layer over a chunk of rows.
    chunk = min(padded, most_rows(_row_flops(hp, rows), DEVICE_FLOPS))
    scratch = max(2 * state, chunk * (2 * hp.hidden_size + hp.intermediate_size) * 4)
    return held + inputs + scratch


def _row_flops(hp: VisionHParams, n_keys: int) -> float:
    """Of one row's attention to ``n_keys`` and its MLP."""
    return 4.0 * n_keys * hp.hidden_size + 2.0 * hp.hidden_size * (hp.hidden_size + 2 * hp.intermediate_size)
