"""The data path from a picture and a question to a staged answer, top to bottom.

    image -> tiles -> vision states -> prompt -> tokens -> text -> stage events -> Answer

Each step is another module's; this one calls them in order and keeps the time.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cotcli.answer import Answer, AnswerScore, GenerationParams, ImageInfo, ModelInfo, Timing, TokenScore, Usage
from cotcli.engine import Engine, EngineOptions
from cotcli.errors import ResourceError, UsageError
from cotcli.image import LoadedImage, PreparedImage, load_image, prepare_image
from cotcli.image_cache import ImageCache
from cotcli.image_cache import encode as encode_cached
from cotcli.mllama.cross_attention import ImageKV
from cotcli.prompt import build_prompt
from cotcli.registry import ResolvedModel, resolve
from cotcli.stages import StageEvent
from cotcli.writer import AnswerWriter, Progress

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageSource: TypeAlias = str | Path | bytes | Image | LoadedImage


def load(
    model: str,
    *,
    gpu_layers: int = 0,
    threads: int | None = None,
    context_length: int = 4096,
    max_sequences: int = 8,
    kv_type: str | None = None,
    stage_format: str | None = None,
    image_cache: ImageCache | bool = True,
    on_progress: Progress | None = None,
) -> Reasoner:
    """Loads a model by name or by the path of its GGUF pair.

    Args:
        model: a name in the registry ("demo"), or a path as ``cotcli.registry.resolve`` takes it.
        gpu_layers, threads, context_length, max_sequences, kv_type: see ``cotcli.engine.EngineOptions``.
        stage_format: "tags" or "none" (the whole answer is the conclusion); None is what the registry says.
        image_cache: where encoded pictures are kept; True is the user's own cache on disk, False is none.
        on_progress: called while loading, and by every later call of the model.

    Raises:
        ModelError: no such model, or its files are broken.
        ResourceError: no memory for it.
        UsageError: there is no such stage format.
    """
    options = EngineOptions(
        gpu_layers=gpu_layers,
        threads=threads,
        context_length=context_length,
        max_sequences=max_sequences,
        kv_type=kv_type,
    )
    resolved = resolve(model)
    if stage_format is not None:
        resolved = replace(resolved, spec=replace(resolved.spec, stage_format=stage_format))
    cache = ImageCache() if image_cache is True else image_cache or None
    return Reasoner(resolved, options, on_progress, cache)


class Reasoner:
    """A loaded model that answers questions about pictures.

    Args:
        model: where its files are and what the registry says of it.
        image_cache: None keeps encoded pictures nowhere.
    """

    def __init__(
        self,
        model: ResolvedModel,
        options: EngineOptions | None = None,
        on_progress: Progress | None = None,
        image_cache: ImageCache | None = None,
    ) -> None:
        self._image_cache = image_cache
        self._progress = on_progress or (lambda phase, done, total: None)
        self._spec = model.spec
        begin = time.perf_counter()
        self.engine = Engine(
            model.language,
            model.mmproj,
            options,
            on_load=lambda share: self._progress("load", round(share * 100), 100),
        )
        self._load_ms = _since(begin)
        self._last_image: EncodedImage | None = None
        self.info = ModelInfo(
            name=model.spec.name,
            quant=self.engine.model.quantization,
            sha256=model.sha256,
            device=self.engine.device_name,
        )
        self.defaults = model.spec.params

    def ask(
        self,
        image: ImageSource | None,
        question: str,
        params: GenerationParams | None = None,
        **overrides: Any,
    ) -> Answer:
        """The whole answer to one question; see ``stream``."""
        answer: Answer | None = None
        for event in self.stream(image, question, params, **overrides):
            if isinstance(event, Answer):
                answer = event
        assert answer is not None  # stream ends with one
        return answer

    def stream(
        self,
        image: ImageSource | None,
        question: str,
        params: GenerationParams | None = None,
        **overrides: Any,
    ) -> Generator[StageEvent | Answer, None, None]:
        """Stage events as the model writes, then the ``Answer``.

        Args:
            image: a path, URL, bytes, Pillow image or what ``load_image`` gave; None asks without a picture.
            params: how to generate; the model's own defaults when None.
            overrides: single fields of ``GenerationParams`` to change.

        Ctrl-C while the model writes ends the answer: the last item then has finish_reason "interrupted".

        Raises:
            ImageError: the picture cannot be read.
            ResourceError: the question does not fit the context, or memory ran out.
        """
        params = replace(params or self.defaults, **overrides)
        AnswerWriter.check(self.engine, self._spec.stages, params)
        begin = time.perf_counter()
        encoded = None if image is None else self.encode(image)
        image_ms = _since(begin)

        begin = time.perf_counter()
        prompt = self.prompt(question, encoded)
        sequence = self.engine.sequence(encoded.kv if encoded else None)
        try:
            self._progress("prompt", 0, len(prompt))
            self.engine.prefill(sequence, prompt)
            self._progress("prompt", len(prompt), len(prompt))
            prompt_ms = _since(begin)

            begin = time.perf_counter()
            writer = AnswerWriter(self.engine, sequence, self._spec.stages, params, self._progress)
            yield from writer.write()
            decode_ms = _since(begin)
        finally:
            self.engine.drop(sequence)

        load_ms, self._load_ms = self._load_ms, 0.0
        parser = writer.parser
        yield Answer(
            question=question,
            image=encoded.info if encoded else None,
            stages=parser.stages,
            answer=parser.answer,
            raw=parser.raw,
            finish_reason=writer.finish_reason,
            model=self.info,
            params=params,
            usage=Usage(len(prompt), writer.n_tokens, encoded.num_tiles if encoded else 0),
            timing=Timing(load_ms, image_ms, prompt_ms, decode_ms),
            cut_in=writer.cut_in,
        )

    def score(self, image: ImageSource | None, question: str, answer: str) -> AnswerScore:
        """How likely the model is to answer a question with exactly this text.

        Args:
            answer: the assistant's text as the model would write it, tags included where it writes tags.

        Raises:
            UsageError: the answer is empty.
        """
        begin = time.perf_counter()
        encoded = None if image is None else self.encode(image)
        image_ms = _since(begin)
        model = self.engine.model
        tokens = model.tokenize(answer)
        if not tokens:
            raise UsageError("there is no answer to score", "Give one: --answer TEXT")
        begin = time.perf_counter()
        prompt = self.prompt(question, encoded, len(tokens))
        sequence = self.engine.sequence(encoded.kv if encoded else None)
        try:
            self.engine.prefill(sequence, prompt)
            prompt_ms = _since(begin)
            begin = time.perf_counter()
            logprobs = [log_softmax(self.engine.logits(sequence))[tokens[0]]]
            for row, token in zip(self.engine.each_logits(sequence, tokens[:-1]), tokens[1:], strict=True):
                logprobs.append(log_softmax(row)[token])
        finally:
            self.engine.drop(sequence)
        load_ms, self._load_ms = self._load_ms, 0.0
        return AnswerScore(
            question=question,
            image=encoded.info if encoded else None,
            answer=answer,
            tokens=tuple(
                TokenScore(model.token_bytes(token, special=True).decode("utf-8", "replace"), token, float(logprob))
                for token, logprob in zip(tokens, logprobs, strict=True)
            ),
            model=self.info,
            usage=Usage(len(prompt), len(tokens), encoded.num_tiles if encoded else 0),
            timing=Timing(load_ms, image_ms, prompt_ms, _since(begin)),
        )

    def encode(self, image: ImageSource) -> EncodedImage:
        """A picture's keys and values, good until another is encoded.

        Those of the picture before are kept, since questions about one picture come in rows.
        """
        loaded = image if isinstance(image, LoadedImage) else load_image(image)
        info = ImageInfo(loaded.source, loaded.sha256, loaded.width, loaded.height)
        last = self._last_image
        if last is not None and last.info.sha256 == loaded.sha256:
            return replace(last, info=info)
        prepared: PreparedImage = prepare_image(loaded, self.engine.hparams.image)
        progress = partial(self._progress, "image")
        states = encode_cached(self.engine, prepared, self._image_cache, progress)
        self._forget_image()
        kv = self.engine.load_image(states, prepared.num_tiles)
        self._last_image = EncodedImage(info, prepared.num_tiles, kv)
        return self._last_image

    def _forget_image(self) -> None:
        if self._last_image is not None:
            self.engine.release_image(self._last_image.kv)
            self._last_image = None

    def prompt(self, question: str, encoded: EncodedImage | None, n_more: int = 1) -> list[int]:
        """Tokens before the answer; ResourceError if they and ``n_more`` tokens do not fit the context."""
        engine = self.engine
        image_token = engine.image_token if encoded else None
        prompt = build_prompt(engine.model, question, image_token, self._spec.bos_count)
        if len(prompt) + n_more > engine.context.n_ctx:
            raise ResourceError(
                f"the prompt has {len(prompt)} tokens and the context {engine.context.n_ctx}",
                f"Make it larger: --ctx {len(prompt) + 1024}",
            )
        return prompt

    def close(self) -> None:
        """Frees the model."""
        self._forget_image()
        self.engine.close()

    def __enter__(self) -> Reasoner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class EncodedImage:
    """A picture as the language model takes it."""

    info: ImageInfo
    num_tiles: int
    kv: ImageKV


def log_softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Natural log-probabilities of all tokens, shape (n_vocab,), in float64."""
    shifted = logits.astype(np.float64) - float(logits.max())
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return result


def _since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000.0
