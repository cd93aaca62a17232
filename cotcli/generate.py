"""The data path from a picture and a question to a staged answer, top to bottom.

    image -> tiles -> vision states -> prompt -> tokens -> text -> stage events -> Answer

Each step is another module's; this one calls them in order and keeps the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from cotcli.answer import Answer, AnswerScore, GenerationParams, ModelInfo, Timing, Usage
from cotcli.engine import Decode, Engine, EngineOptions
from cotcli.errors import CotcliError, ResourceError, UsageError
from cotcli.image_cache import ImageCache
from cotcli.lookahead import LookAhead
from cotcli.lookahead import Request as Request
from cotcli.native.devices import add_rpc_server
from cotcli.pictures import EncodedImage, Picture, Pictures
from cotcli.placement import GpuLayers
from cotcli.prompt import build_prompt
from cotcli.registry import ResolvedModel, resolve
from cotcli.scheduler import RequestOutput, Scheduler, Writing
from cotcli.scoring import score_tokens
from cotcli.stages import StageEvent
from cotcli.writer import AnswerWriter, Progress

if TYPE_CHECKING:
    from cotcli.pictures import ImageSource

T = TypeVar("T")


def load(
    model: str,
    *,
    gpu_layers: GpuLayers = "auto",
    device: str | None = None,
    require_gpu: bool = False,
    check_memory: bool = True,
    rpc: Sequence[str] = (),
    threads: int | None = None,
    context_length: int = 4096,
    max_sequences: int = 1,
    kv_type: str | None = None,
    repack: bool = False,
    stage_format: str | None = None,
    image_cache: ImageCache | bool = True,
    on_progress: Progress | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Reasoner:
    """Loads a model by name or by the path of its GGUF pair.

    Args:
        model: a name in the registry ("demo"), or a path as ``cotcli.registry.resolve`` takes it.
        gpu_layers, device, require_gpu, check_memory: where it computes, see ``cotcli.engine.EngineOptions``.
        rpc: HOST:PORT of machines that run llama.cpp's ``rpc-server``; their devices count among this one's from then
            on.
        threads, context_length, max_sequences, kv_type, repack: see ``cotcli.engine.EngineOptions``.
        stage_format: how the model writes its stages, one of ``cotcli.stages.FORMATS``; None is what the registry says.
            "none" takes the whole answer for the conclusion; "sections" and "turns" need the wording of the model.
        image_cache: where encoded pictures are kept; True is the user's own cache on disk, False is none.
        on_progress: called while loading, and by every later call of the model.
        on_note: called with what a user should know about the choice of devices, a line each, before it loads.

    Raises:
        ModelError: no such model, or its files are broken.
        ResourceError: no memory for it, no device where one is required, or no RPC server.
        UsageError: there is no such stage format or device, or the options contradict each other.
    """
    options = EngineOptions(
        gpu_layers=gpu_layers,
        device=device,
        require_gpu=require_gpu,
        check_memory=check_memory,
        threads=threads,
        context_length=context_length,
        max_sequences=max_sequences,
        kv_type=kv_type,
        repack=repack,
    )
    resolved = resolve(model)
    if stage_format is not None:
        resolved = replace(resolved, spec=replace(resolved.spec, stage_format=stage_format))
    cache = ImageCache() if image_cache is True else image_cache or None
    for endpoint in rpc:
        add_rpc_server(endpoint)
    return Reasoner(resolved, options, on_progress, cache, on_note)


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
        on_note: Callable[[str], None] | None = None,
    ) -> None:
        self._progress = on_progress or (lambda phase, done, total: None)
        self._spec = model.spec
        begin = time.perf_counter()
        self.engine = Engine(
            model.language,
            model.mmproj,
            options,
            on_load=lambda share: self._progress("load", round(share * 100), 100),
            on_note=on_note,
        )
        self._load_ms = _since(begin)
        self._pictures = Pictures(self.engine, image_cache, partial(self._progress, "image"))
        self.info = ModelInfo(
            name=model.spec.name,
            quant=self.engine.model.quantization,
            sha256=model.sha256,
            device=self.engine.device_name,
            stage_format=model.spec.stage_format,
            pair_id=self.engine.pair_id,
            mmproj_id=self.engine.mmproj_id,
            prompt_id=model.spec.prompt_id,
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
        *_, answer = self.stream(image, question, params, **overrides)
        assert isinstance(answer, Answer)  # stream ends with one
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
        yield from self._schedule([Request(image, question, params)], 1, _item_or_raise)

    def stream_all(
        self, requests: Iterable[Request], parallel: int = 1
    ) -> Generator[tuple[Request, StageEvent | Answer | CotcliError], None, None]:
        """Answers many questions, several at once: the items of ``stream``, each with its request.

        Requests are started in their order and end in any. A request's last item is its ``Answer``, or the error that
        kept it from one, which the others do not feel. While answers are written, the pictures of the next two requests
        are read; questions about one picture in a row, or at the same time, encode it once.

        Args:
            requests: asked for the next only when its picture can be read ahead, and when what came before has been
                begun. They are asked for in a thread of their own, a list or tuple apart, one at a time, so that no
                answer waits for a request that is long in coming; that thread may still be waiting for one after this
                iterator was left. What they raise comes out at once.
            parallel: answers at once, at most ``max_sequences``. What an answer says does not depend on it, but for
                the rounding of sums; with K-quants on an x86 CPU not even for that, unless they are repacked.

        Ctrl-C ends the answers that are being written as items with finish_reason "interrupted", then the iterator. If
        none is being written, KeyboardInterrupt is raised.

        Raises:
            UsageError: ``parallel`` is out of range.
        """
        most = self.engine.options.max_sequences
        if not 1 <= parallel <= most:
            hint = f"Load the model with more sequences: cotcli.load(..., max_sequences={parallel})"
            raise UsageError(f"parallel must be 1 to {most}, not {parallel}", hint if parallel > most else None)
        return self._schedule(requests, parallel, lambda request, item: (request, item))

    def _schedule(
        self, requests: Iterable[Request], parallel: int, give: Callable[[Request, RequestOutput], T]
    ) -> Generator[T, None, None]:
        def start(wait: bool) -> tuple[Request, Writing] | None:
            taken = ahead.take(wait=wait)
            return None if taken is None else (taken[0], self._answer(*taken))

        with closing(LookAhead(requests, self._pictures.read)) as ahead:
            del requests  # a generator that is left is then closed in the thread that ran it
            yield from Scheduler(self.engine, start, ahead.look_ahead, give, parallel).run()

    def _answer(self, request: Request, picture: Future[Picture | None]) -> Writing:
        """One answer, top to bottom; it stands still at each ``Decode`` until the engine has decoded those tokens."""
        params = request.params or self.defaults
        AnswerWriter.check(self.engine, self._spec.stages, params)
        encoded, image_ms = self._encode(picture.result())

        begin = time.perf_counter()
        prompt = self.prompt(request.question, encoded)
        sequence = self.engine.sequence(encoded.kv if encoded else None)
        try:
            self._progress("prompt", 0, len(prompt))
            yield Decode(sequence, prompt)
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
            question=request.question,
            image=encoded.info if encoded else None,
            stages=parser.stages,
            answer=parser.answer,
            raw=parser.raw,
            finish_reason=writer.finish_reason,
            model=self.info,
            params=params,
            usage=Usage(len(prompt) + writer.n_read, writer.n_tokens, encoded.num_tiles if encoded else 0),
            timing=Timing(load_ms, image_ms, prompt_ms, decode_ms),
            cut_in=writer.cut_in,
        )

    def score(self, image: ImageSource | None, question: str, answer: str) -> AnswerScore:
        """How likely the model is to answer a question with exactly this text.

        Args:
            answer: the assistant's text as the model would write it, tags included where it writes tags; of a model
                that is asked for each stage in turn, the first one's.

        Raises:
            UsageError: the answer is empty.
        """
        encoded, image_ms = self._encode(None if image is None else self._pictures.read(image))
        tokens = self.engine.model.tokenize(answer)
        if not tokens:
            raise UsageError("there is no answer to score", "Give one: --answer TEXT")
        begin = time.perf_counter()
        prompt = self.prompt(question, encoded, len(tokens))
        sequence = self.engine.sequence(encoded.kv if encoded else None)
        try:
            self.engine.prefill(sequence, prompt)
            prompt_ms = _since(begin)
            begin = time.perf_counter()
            scored = score_tokens(self.engine, sequence, tokens)
        finally:
            self.engine.drop(sequence)
        load_ms, self._load_ms = self._load_ms, 0.0
        return AnswerScore(
            question=question,
            image=encoded.info if encoded else None,
            answer=answer,
            tokens=scored,
            model=self.info,
            usage=Usage(len(prompt), len(tokens), encoded.num_tiles if encoded else 0),
            timing=Timing(load_ms, image_ms, prompt_ms, _since(begin)),
        )

    def encode(self, image: ImageSource) -> EncodedImage:
        """A picture's keys and values, good until another is encoded; one that is known is not encoded again."""
        return self._pictures.encode(self._pictures.read(image))

    def _encode(self, picture: Picture | None) -> tuple[EncodedImage | None, float]:
        """With the milliseconds that reading and encoding took."""
        if picture is None:
            return None, 0.0
        begin = time.perf_counter()
        return self._pictures.encode(picture), picture.read_ms + _since(begin)

    def prompt(self, question: str, encoded: EncodedImage | None, n_more: int = 1) -> list[int]:
        """Tokens before the answer; ResourceError if they and ``n_more`` tokens do not fit the context."""
        engine = self.engine
        image_token = engine.image_token if encoded else None
        prompt = build_prompt(engine.model, self._spec.wording(question), image_token, self._spec.bos_count)
        if len(prompt) + n_more > engine.context_length:
            raise ResourceError(
                f"the prompt has {len(prompt)} tokens and the context {engine.context_length}",
                f"Make it larger: --ctx {len(prompt) + 1024}",
            )
        return prompt

    def close(self) -> None:
        """Frees the model."""
        self._pictures.forget_last()
        self.engine.close()

    def __enter__(self) -> Reasoner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _item_or_raise(request: Request, item: RequestOutput) -> StageEvent | Answer:
    if isinstance(item, CotcliError):
        raise item
    return item


def _since(begin: float) -> float:
    return (time.perf_counter() - begin) * 1000.0
