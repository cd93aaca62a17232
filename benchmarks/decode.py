"""What a token costs with a picture, beside what libllama alone needs for the self-attention layers.

    python -m benchmarks.decode PAIR --tokens 40
    python -m benchmarks.decode --tokens 200

Times tokens in turn: of libllama alone, by its C interface and without a callback; of the engine without a picture,
where the callback runs and leaves every column as it is; and of the engine with a picture of four tiles. What a token
reads is the language file without its table of embeddings, and the cross-attention layers besides.

Without PAIR they are of random weights as deep as LLaVA-CoT and a sixtieth as wide: the callback costs the same there,
and does not drown in the noise.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import Figure, add_json_argument, report
from benchmarks.random_checkpoint import LLAVA_COT
from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from cotcli.engine import Engine, EngineOptions
from cotcli.memory import read_pair
from cotcli.mllama.weights import WeightFile
from cotcli.native.library import llama_cpp
from cotcli.registry import ResolvedModel, resolve

_PROMPT = 16


class BareLlama:
    """libllama with a language file and nothing else.

    Args:
        language: the language GGUF.
        threads: as the engine has them.
        context: most tokens.

    Raises:
        RuntimeError: it cannot be loaded.
    """

    def __init__(self, language: Path, threads: int, context: int) -> None:
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers, model_params.use_extra_bufts = 0, False
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(language), model_params)
        if not self._model:
            raise RuntimeError(f"libllama cannot load {language}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_seq_max = context, 1
        params.n_batch = params.n_ubatch = 128
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            llama_cpp.llama_model_free(self._model)
            raise RuntimeError(f"libllama has no memory for {context} tokens")
        self._batch = llama_cpp.llama_batch_init(1, 0, 1)
        self._length = 0

    def decode(self, token: int) -> None:
        """Appends one token."""
        batch = self._batch
        batch.n_tokens, batch.token[0], batch.pos[0] = 1, token, self._length
        batch.n_seq_id[0], batch.seq_id[0][0], batch.logits[0] = 1, 0, True
        if llama_cpp.llama_decode(self._context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        llama_cpp.llama_get_logits_ith(self._context, 0)  # waits for it
        self._length += 1

    def close(self) -> None:
        """Frees it."""
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


def bytes_read(files: ResolvedModel) -> tuple[int, int]:
    """Of the weights, a token: those of libllama, and those of the cross-attention layers."""
    pair = read_pair(files.language, WeightFile(files.mmproj))
    own = [*pair.output, *(tensor for layer in pair.layers for tensor in layer)]
    cross = [tensor for layer in pair.cross_attention.values() for tensor in layer]
    return sum(tensor.n_bytes for tensor in own), sum(tensor.n_bytes for tensor in cross)


def narrow_pair(folder: Path) -> ResolvedModel:
    """Random weights of LLaVA-CoT's layers, 64 wide."""
    cross = LLAVA_COT.text.cross_attention_layers
    recipe = Recipe(
        hidden_size=64, intermediate_size=128, layers=LLAVA_COT.text.num_hidden_layers, cross_attention_layers=cross
    )
    write_checkpoint(folder / "checkpoint", recipe)
    return resolve(str(convert(folder / "checkpoint", folder, "q8_0", name="narrow").language))


def _milliseconds(decode: Callable[[], object]) -> float:
    """Of the second of two tokens: libllama makes its graph anew for the first after another sequence's."""
    decode()
    begin = time.perf_counter()
    decode()
    return (time.perf_counter() - begin) * 1e3


def measure(files: ResolvedModel, engine: Engine, tokens: int) -> list[Figure]:
    """Milliseconds of so many tokens, in the three ways, and the ratios that matter."""
    text = engine.hparams.text
    n_tokens = engine.hparams.vision.max_num_tiles * engine.hparams.vision.num_patches
    states = np.random.default_rng(0).standard_normal((n_tokens, text.hidden_size), np.float32)
    image = engine.load_image(states, engine.hparams.vision.max_num_tiles)
    without, with_image = engine.sequence(), engine.sequence(image)
    engine.release_image(image)
    engine.prefill(without, list(range(_PROMPT)))
    engine.prefill(with_image, [0, engine.image_token, *range(_PROMPT - 2)])
    times: list[tuple[float, float, float]] = []
    with closing(BareLlama(files.language, engine.threads, _PROMPT + 2 * tokens)) as bare:
        for token in range(_PROMPT):
            bare.decode(token)
        for token in range(tokens):
            times.append(
                (
                    _milliseconds(partial(bare.decode, token)),
                    _milliseconds(partial(engine.prefill, without, [token])),
                    _milliseconds(partial(engine.prefill, with_image, [token])),
                )
            )
    engine.drop(without)
    engine.drop(with_image)
    alone, hooked, seeing = (tuple(column) for column in zip(*times, strict=True))
    own, cross = bytes_read(files)
    more = (own + cross) / own
    return [
        Figure("a token, libllama alone", alone, "ms"),
        Figure("a token, without a picture", hooked, "ms"),
        Figure("a token, with a picture of four tiles", seeing, "ms"),
        Figure("the callback", tuple(b - a for a, b, _ in times), "ms", at_most=2.0),
        Figure(
            f"with a picture: times libllama alone, by bytes of weights ({own / 1e9:.2f} + {cross / 1e9:.2f} GB)",
            tuple(c / a / more for a, _, c in times),
            at_most=1.08,
        ),
        Figure("libllama alone reads", tuple(own / 1e6 / a for a in alone), "GB/s"),
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="a name or a path, as for cotcli --model")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--threads", type=int)
    add_json_argument(parser)
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        _report(given, resolve(given.model) if given.model else narrow_pair(Path(folder)))


def _report(given: argparse.Namespace, files: ResolvedModel) -> None:
    options = EngineOptions(threads=given.threads, context_length=_PROMPT + 2 * given.tokens, max_sequences=2)
    with Engine(files.language, files.mmproj, options) as engine:
        report(measure(files, engine, given.tokens), given.json)


if __name__ == "__main__":
    main()
