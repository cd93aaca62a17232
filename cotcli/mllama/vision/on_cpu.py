"""The vision tower in NumPy, all of it in float32.

On two AVX-512 cores that is a third faster than ggml's graphs: BLAS comes closer to what the processor can do than
ggml's products, and our GELU is vectorized where ggml's is scalar.

Each layer first makes q, k and v of all rows, then attends, then does everything else. The rows of the first and the
last step are independent, the heads of the second too: they are shared out among threads, each with a BLAS of one
thread (but for Apple's, which has threads of its own). Up to 24 threads, what is shared out does not depend on their
number, and so no bit of the result does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from cotcli.errors import ResourceError
from cotcli.image import PreparedImage
from cotcli.mllama.hparams import HParams, VisionHParams
from cotcli.mllama.vision import inputs
from cotcli.mllama.vision.steps import take
from cotcli.mllama.weights import WIDENED, WeightFile

Array = npt.NDArray[np.float32]
T = TypeVar("T")

_one_at_a_time = threading.Lock()  # each would put BLAS's threads back to what it found

_PARTS = 24  # of the rows, where they are independent, for so many threads: at 11B shapes half of one is a fifth slower
_QUERY_PARTS = 12  # of the rows, for each head: fewer, for that keeps BLAS efficient
_FEWEST_ROWS = 32
_KEYS = 804  # attended to at once: at 11B shapes the scores of a part of the rows take 1.7 MB, which a cache holds
_ELEMENTS = 2**16  # of a GELU at once, for the cache too
_HIGHEST = 60.0  # a score whose exponential float32 can still sum
_GELU_P = 0.3275911
_GELU_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class CpuTower:
    """See ``vision.VisionTower``. Weights stay in the file; a layer's are widened to float32 as its turn comes."""

    def __init__(self, file: WeightFile, n_threads: int) -> None:
        self._file, self._n_threads = file, n_threads

    def close(self) -> None:
        """Nothing is held between images."""

    def encode(self, image: PreparedImage, on_progress: Callable[[int, int], None] | None = None) -> Array:
        """See ``vision.VisionTower``. Meanwhile all of the process's BLAS has one thread, and other images wait."""
        from threadpoolctl import threadpool_limits

        try:
            with _one_at_a_time, threadpool_limits(1, "blas"), _Workers(self._n_threads) as workers:
                return take(_Pass(self._file, image, workers), self._file.hparams.vision, on_progress)
        except MemoryError as error:
            raise ResourceError("not enough memory for the vision tower", "Try fewer threads: --threads N") from error


def libraries() -> str:
    """The releases of NumPy and of its BLAS, and the kind of processor that this has chosen its code for."""
    from threadpoolctl import threadpool_info

    blas = [library for library in threadpool_info() if library["user_api"] == "blas"]
    return " ".join([np.__version__, *(f"{b['internal_api']} {b['version']} {b.get('architecture')}" for b in blas)])


class _Workers:
    """Threads that share the parts of a step, with a BLAS of one thread each."""

    def __init__(self, n_threads: int) -> None:
        from threadpoolctl import threadpool_limits

        self.n_threads = n_threads
        # Where BLAS uses OpenMP, a limit is its own thread's; else it is the whole process's.
        self._pool = ThreadPoolExecutor(n_threads, initializer=threadpool_limits, initargs=(1, "blas"))

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def share(self, work: Callable[..., T], parts: Iterable[tuple[Any, ...]]) -> list[T]:
        """Does all parts of a step. When one fails, or Ctrl-C comes, those not begun are left.

        Raises:
            ResourceError: a thread cannot be started.
        """
        try:
            futures = [self._pool.submit(work, *part) for part in parts]
        except RuntimeError as error:
            raise ResourceError(f"{self.n_threads} threads: {error}", "Try fewer: --threads N") from error
        return [future.result() for future in futures]


class _Pass:
    """The working memory of one image's way through the tower."""

    def __init__(self, file: WeightFile, image: PreparedImage, workers: _Workers) -> None:
        hp = file.hparams.vision
        self._file, self._hparams, self._image, self._workers = file, hp, image, workers
        self._rows = hp.max_num_tiles * hp.num_patches  # rows of the result
        self._real = image.num_tiles * hp.num_patches
        self._all = hp.max_num_tiles * hp.num_padded_patches
        self._hidden = np.zeros((self._all, hp.hidden_size), np.float32)
        self._qk = np.empty((self._all, 2 * hp.hidden_size), np.float32)
        self._v = np.ones((self._all, hp.attention_heads, hp.head_dim + 1), np.float32)  # the ones add the weights up
        self._stack = np.empty((self._rows, hp.vision_output_dim), np.float32)

    # -- steps, see ``steps.Steps`` -------------------------------------------------------------------------------

    def embed(self) -> None:
        hp, image = self._hparams, self._image
        table = inputs.position_table(self._file, image.aspect_ratio_id)
        patches, weight = inputs.patches(image, hp.patch_size), self._file.matrix("v.patch_embd.weight")

        def embed(tile: int) -> None:
            table[tile, 1:] += patches[tile] @ weight.T

        self._workers.share(embed, [(tile,) for tile in range(image.num_tiles)])
        rows = table.reshape(self._rows, hp.hidden_size)

        def norm(part: slice) -> None:
            self._hidden[part] = self._layer_norm(rows[part], "v.pre_ln")

        self._workers.share(norm, self._parts(0, self._rows))

    def keep_state(self, index: int) -> None:
        hp = self._hparams
        interleaved = self._stack[:, hp.hidden_size :].reshape(self._rows, hp.hidden_size, len(hp.intermediate_states))
        for slot, wanted in enumerate(hp.intermediate_states):
            if wanted == index:
                interleaved[:, :, slot] = self._hidden[: self._rows]

    def layer(self, name: str) -> None:
        hp, file = self._hparams, self._file
        gated = name.startswith("v.global_blk")
        attn_gate = inputs.gate(file, f"{name}.attn_gate") if gated else 1.0
        ffn_gate = inputs.gate(file, f"{name}.ffn_gate") if gated else 1.0
        parts = ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down")
        q, k, v, out, up, down = self._workers.share(file.matrix, [(f"{name}.{part}.weight",) for part in parts])
        qk = np.concatenate([q, k])
        up_bias, down_bias = file.array(f"{name}.ffn_up.bias"), file.array(f"{name}.ffn_down.bias")

        def project(part: slice) -> None:
            normed = self._layer_norm(self._hidden[part], f"{name}.ln1")
            np.matmul(normed, qk.T, out=self._qk[part])
            self._v[part, :, :-1] = (normed @ v.T).reshape(-1, hp.attention_heads, hp.head_dim)

        def attend(head: int, part: slice, n_keys: int) -> None:
            queries, keys = (self._qk[:, at + head * hp.head_dim :][:, : hp.head_dim] for at in (0, hp.hidden_size))
            scaled = queries[part] * np.float32(hp.head_dim**-0.5)
            # In the place of the queries, which nobody else reads.
            queries[part] = attention(scaled, keys[:n_keys], self._v[:n_keys, head])

        def finish(part: slice) -> None:
            hidden = self._hidden[part]
            delta = self._qk[part, : hp.hidden_size] @ out.T
            delta *= np.float32(attn_gate)
            hidden += delta
            inner = self._layer_norm(hidden, f"{name}.ln2") @ up.T
            inner += up_bias
            gelu_inplace(inner)
            np.matmul(inner, down.T, out=delta)
            delta += down_bias
            delta *= np.float32(ffn_gate)
            hidden += delta

        self._workers.share(project, self._parts(0, self._all))
        queries = ((0, self._real, self._all), (self._real, self._all, self._real))
        self._workers.share(
            attend,
            [
                (head, part, n_keys)
                for head in range(hp.attention_heads)
                for first, end, n_keys in queries
                for part in split(self._all, first, end, _QUERY_PARTS)
            ],
        )
        self._workers.share(finish, self._parts(0, self._all))

    def between(self) -> None:
        hp = self._hparams

        def norm(part: slice) -> None:
            self._hidden[part] = self._layer_norm(self._hidden[part], "v.post_ln")

        self._workers.share(norm, self._parts(0, self._all))
        tile = inputs.second_tile_embedding(self._file, self._image.aspect_ratio_id)
        for rows in (self._hidden[: self._rows], self._hidden[self._rows :]):
            by_tile = rows.reshape(hp.max_num_tiles, -1, hp.hidden_size)
            by_tile += tile

    def project(self) -> Array:
        self._stack[:, : self._hparams.hidden_size] = self._hidden[: self._rows]
        del self._hidden, self._qk, self._v  # room for the result
        weight, bias = self._file.matrix("mm.0.weight"), self._file.array("mm.0.bias")
        states = np.empty((self._rows, len(bias)), np.float32)

        def project(part: slice) -> None:
            np.matmul(self._stack[part], weight.T, out=states[part])
            states[part] += bias

        self._workers.share(project, self._parts(0, self._rows))
        return states

    # -- parts of steps -------------------------------------------------------------------------------------------

    def _parts(self, first: int, end: int) -> Iterator[tuple[slice]]:
        return ((part,) for part in split(self._all, first, end, _row_parts(self._workers.n_threads)))

    def _layer_norm(self, x: Array, name: str) -> Array:
        normed: Array = x - x.mean(axis=1, keepdims=True)
        variance = np.einsum("ij,ij->i", normed, normed)[:, None] / np.float32(x.shape[1])
        normed *= 1 / np.sqrt(variance + np.float32(self._hparams.norm_eps))
        normed *= self._file.array(f"{name}.weight")
        normed += self._file.array(f"{name}.bias")
        return normed


def attention(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kᵀ) v, a block of keys at a time.

    Exponentials are taken of the scores as they are, unless a row's are too high for that, or all its first ones too
    low: then, as in FlashAttention's online softmax, of their distance to the highest.

    Args:
        q: scaled queries, shape (n, head_dim).
        k: shape (keys, head_dim).
        v: shape (keys, head_dim + 1), with ones in the last column.
    """
    summed: Array = np.zeros((len(q), v.shape[1]), np.float32)
    shift = np.zeros((len(q), 1), np.float32)
    room, product = np.empty((len(q), min(_KEYS, len(k))), np.float32), np.empty_like(summed)
    for start in range(0, len(k), _KEYS):
        keys = k[start : start + _KEYS]
        scores = np.matmul(q, keys.T, out=room[:, : len(keys)])
        highest = scores.max(axis=1, keepdims=True)
        outlying = highest - shift > _HIGHEST
        if start == 0:
            outlying |= highest < -_HIGHEST
        if outlying.any():
            raised = np.where(outlying, highest, shift)
            if start:
                summed *= np.exp(shift - raised)
            shift = raised
        if shift.any():
            scores -= shift
        np.exp(scores, out=scores)
        summed += np.matmul(scores, v[start : start + _KEYS], out=product)
    result: Array = summed[:, :-1] / summed[:, -1:]
    return result


def gelu_inplace(x: Array) -> None:
    """x Φ(x) in the place of x, which lies without gaps; Φ is the normal distribution function.

    By Abramowitz and Stegun's formula 7.1.26 for erf, to 4e-7.
    """
    flat = x.reshape(-1)
    for start in range(0, len(flat), _ELEMENTS):
        part = flat[start : start + _ELEMENTS]
        size = np.abs(part)
        t = size * np.float32(_GELU_P * 0.5**0.5)
        t += 1
        np.reciprocal(t, out=t)
        tail = t * np.float32(_GELU_A[-1] / 2)
        for coefficient in _GELU_A[-2::-1]:
            tail += np.float32(coefficient / 2)
            tail *= t
        np.square(size, out=t)
        t *= np.float32(-0.5)
        np.exp(t, out=t)
        tail *= t  # 1 - Φ(|x|)
        tail *= size
        np.maximum(part, 0, out=part)
        part -= tail


def _row_parts(n_threads: int) -> int:
    return _PARTS * -(-n_threads // _PARTS)


def split(rows: int, first: int, end: int, parts: int) -> Iterator[slice]:
    """The parts of rows [first, end), each as large as one of so many ``parts`` of all ``rows``."""
    size = max(-(-rows // parts), _FEWEST_ROWS)
    for start in range(first, end, size):
        yield slice(start, min(start + size, end))


def working_memory(hparams: HParams, n_threads: int) -> int:
    """Bytes the tower takes while it encodes an image, on top of the mapped file: an upper bound."""
    hp, text = hparams.vision, hparams.text
    rows, padded = hp.max_num_tiles * hp.num_patches, hp.max_num_tiles * hp.num_padded_patches
    attending = padded * (3 * hp.hidden_size + hp.attention_heads)  # q, k and v
    held = padded * hp.hidden_size + rows * hp.vision_output_dim + attending
    widening = 3 * min(WIDENED, hp.hidden_size * hp.patch_width)
    patches = rows * hp.patch_width + hp.hidden_size * (hp.patch_width + (n_threads + 1) * hp.num_patches) + widening
    embedding = held + rows * hp.hidden_size + max(rows * hp.hidden_size, patches)
    parts = _row_parts(n_threads)
    queries, part = (next(split(padded, 0, padded, n)).stop for n in (_QUERY_PARTS, parts))
    heads = queries * (min(_KEYS, padded) + 4 * hp.head_dim)
    finishing = part * (2 * hp.hidden_size + hp.intermediate_size) + 4 * _ELEMENTS
    layer = held + _layer_weights(hp) + max(n_threads * heads, min(n_threads, parts) * finishing)
    projecting = rows * (hp.vision_output_dim + text.hidden_size) + hp.vision_output_dim * text.hidden_size + widening
    return int(4 * max(embedding, layer, projecting))


def _layer_weights(hp: VisionHParams) -> int:
    """Numbers in one layer's matrices, and in the copy that puts those of q and k into one."""
    return hp.hidden_size * (6 * hp.hidden_size + 2 * hp.intermediate_size)
