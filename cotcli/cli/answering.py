"""One question about some pictures, from the command line to the exit code; `ask` and `demo` are this.

The order keeps waits and failures cheap: options, then pictures, then the model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cotcli.answer import Answer, GenerationParams
from cotcli.cli import options
from cotcli.cli.output import OutputOptions, make_output, make_progress
from cotcli.cli.run import about, note, say
from cotcli.errors import Interrupted, UsageError
from cotcli.render import RAW, Output
from cotcli.render.progress import Phases, ProgressLine
from cotcli.render.record import problem_of
from cotcli.stages import StageDelta, StageEvent, StageStart

if TYPE_CHECKING:
    from cotcli.generate import Reasoner
    from cotcli.image import LoadedImage
    from cotcli.image_cache import ImageCache
    from cotcli.placement import GpuLayers
    from cotcli.registry import ResolvedModel


@dataclass(frozen=True)
class LoadOptions:
    """What the command line says about the model and how to load it; None is the default."""

    model: str | None = None
    gpu_layers: GpuLayers = "auto"
    threads: int | None = None
    context: int | None = None
    stage_format: str | None = None
    image_cache: bool = True
    image_cache_bytes: int | None = None
    max_sequences: int = 1
    device: str | None = None
    require_gpu: bool = False
    kv_type: str | None = None
    repack: bool = False
    check_memory: bool = True
    rpc: Sequence[str] = ()

    @property
    def name(self) -> str:
        """What `cotcli.load` is asked for."""
        from cotcli.specs import default_model

        return self.model or default_model()

    def resolved(self) -> ResolvedModel:
        """The files of the model, and what the registry says of it; raises as `cotcli.registry.resolve` does."""
        from cotcli.registry import resolve

        return resolve(self.name)


def parse_loading(
    *,
    model: str | None,
    stages: str | None,
    gpu_layers: str,
    device: str | None,
    require_gpu: bool,
    rpc: Sequence[str] | None,
    threads: int | None,
    ctx: int | None,
    kv_type: str | None,
    memory_check: bool,
    image_cache: bool,
    image_cache_size: str | None,
    max_sequences: int = 1,
    repack: bool = False,
) -> LoadOptions:
    """What is said of the model and how to load it, by the names of the commands' own parameters."""
    return LoadOptions(
        model=model,
        gpu_layers=options.parse_gpu_layers(gpu_layers),
        threads=threads,
        context=ctx,
        stage_format=stages,
        image_cache=image_cache,
        image_cache_bytes=options.parse_size(image_cache_size, "--image-cache-size"),
        max_sequences=max_sequences,
        device=device,
        require_gpu=require_gpu,
        kv_type=kv_type,
        repack=repack,
        check_memory=memory_check,
        rpc=rpc or (),
    )


@dataclass(frozen=True)
class Job:
    """A question, its pictures as the user named them or one that is there already, and the options.

    `params` holds what the command line says about generation; the rest are the model's own defaults. `on_answer` is
    called with each answer, whole or not, when it has been printed. `to_allow_more` is what a command without
    --max-tokens says to do when an answer was cut for its length.
    """

    question: str
    images: Sequence[str] | LoadedImage
    load: LoadOptions = LoadOptions()
    params: Mapping[str, Any] = field(default_factory=dict)
    output: OutputOptions = field(default_factory=OutputOptions)
    on_answer: Callable[[Answer], None] | None = None
    to_allow_more: str | None = None


def answer_all(job: Job) -> int:
    """Answers and prints.

    Returns:
        The exit code: 0, or that of the first answer that is not a whole one.

    Raises:
        Failure: there is no answer at all.
    """
    GenerationParams(**job.params)  # refuses bad values before anything slow
    images = _checked(job)
    with about(job.question):
        _check_shown(job)
    several = len(images) > 1
    output, progress = make_output(job.output, headers=several), make_progress(job.output)
    codes: list[int] = []
    with ExitStack() as stack:
        with about(job.question):
            reasoner = stack.enter_context(loaded(job.load, job.output, progress, lambda: output.live))
        params = replace(reasoner.defaults, **job.params)
        for position, (name, image) in enumerate(images, 1):
            with about(job.question, name):
                progress.hide()
                output.start(name, job.question)
                answer, stopped = _answer(reasoner, image, job.question, params, output, progress)
                if job.on_answer is not None:
                    job.on_answer(answer)
                problem = problem_of(answer)
                if problem is not None and answer.finish_reason == "length":
                    problem.hint = job.to_allow_more or problem.hint
            if problem is None and stopped and position < len(images):
                problem = Interrupted("interrupted")
            if problem is not None:
                say(problem, about=name if several else None)
                codes.append(problem.exit_code)
                if isinstance(problem, Interrupted):
                    return problem.exit_code
    return codes[0] if codes else 0


def _checked(job: Job) -> list[tuple[str, LoadedImage | str]]:
    """Reads every picture, so that a broken one is found before the model loads.

    The pixels are kept where they cannot be read again, and of the first; many large pictures would fill memory.
    """
    from cotcli.image import LoadedImage, expand_sources, load_image
    from cotcli.image.sources import name_of

    if isinstance(job.images, LoadedImage):
        return [(job.images.source, job.images)]
    with about(job.question):
        sources = expand_sources(job.images)
    images: list[tuple[str, LoadedImage | str]] = []
    for source in sources:
        with about(job.question, name_of(source)):
            image = load_image(source)
        images.append((image.source, source if images and os.path.isfile(source) else image))
    return images


def _check_shown(job: Job) -> None:
    """
    Raises:
        UsageError: the model writes none of the stages that are to be shown; an empty output would not say so.
    """
    show = job.output.show
    if show is None or RAW in show:
        return
    spec = job.load.resolved().spec
    form = replace(spec, stage_format=job.load.stage_format or spec.stage_format).stages
    if not set(show) & set(form.stages):
        raise UsageError(
            f"--show {','.join(show)}: with --stages {form.name}, {job.load.name} writes only {', '.join(form.stages)}",
            f"To see what it writes: --show {','.join(form.stages)}",
        )


def _answer(
    reasoner: Reasoner,
    image: LoadedImage | str,
    question: str,
    params: GenerationParams,
    output: Output,
    progress: ProgressLine,
) -> tuple[Answer, bool]:
    """Streams one answer to the output. Ctrl-C ends it early, and what has been written is kept.

    Returns:
        The answer, and whether Ctrl-C came, be it too late for this one.
    """
    from cotcli.native.interrupt import deferred

    stream = reasoner.stream(image, question, params)
    answer: Answer | None = None
    stopped = False
    item: StageEvent | Answer | None = None

    def show() -> None:
        """What has come is written whole, whenever Ctrl-C comes: events would not add up to the record."""
        nonlocal answer, item
        if item is not None:
            with deferred():
                answer = _show(item, output, progress) or answer
                item = None

    try:
        try:
            for item in stream:  # noqa: B007  # it is `show` that takes it
                show()
        except KeyboardInterrupt:
            stopped = True
            show()
            if answer is None:
                # If it came while this side was at work, the generator stands at a yield and has yet to hear of it.
                item = stream.throw(KeyboardInterrupt())
                show()
            for item in stream:  # noqa: B007
                show()
    finally:
        progress.hide()
        if answer is None:
            output.close()
    if answer is None:
        raise KeyboardInterrupt
    try:
        with deferred():
            output.answer(answer)
    except KeyboardInterrupt:
        stopped = True
    return answer, stopped


def _show(item: StageEvent | Answer, output: Output, progress: ProgressLine) -> Answer | None:
    """Passes an event on; an answer is given back."""
    if isinstance(item, Answer):
        return item
    if not isinstance(item, StageDelta) or (item.stage is None and item.text.strip()):
        progress.hide()
    progress.stage = item.stage if isinstance(item, StageStart) else progress.stage
    output.event(item)
    return None


@contextmanager
def loaded(load: LoadOptions, output: OutputOptions, progress: Phases, live: Callable[[], bool]) -> Iterator[Reasoner]:
    """The model, for as long as it is needed.

    Args:
        live: whether text is being written where the progress line would go.
    """
    import cotcli

    if output.verbose:
        model = load.resolved()
        note(f"{model.spec.name} {model.quant}, {model.language}, {model.mmproj}")
    if output.verbose > 1:
        from cotcli.native import log

        log.show(True)

    def on_progress(phase: str, done: int, total: int) -> None:
        if not live():
            progress.update(phase, done, total)

    def on_note(text: str) -> None:
        if output.notes:
            progress.hide()
            note(text)

    settings: dict[str, Any] = {
        "gpu_layers": load.gpu_layers,
        "device": load.device,
        "require_gpu": load.require_gpu,
        "kv_type": load.kv_type,
        "repack": load.repack,
        "check_memory": load.check_memory,
        "rpc": load.rpc,
        "threads": load.threads,
        "stage_format": load.stage_format,
        "image_cache": _image_cache(load, output),
        "max_sequences": load.max_sequences,
    }
    if load.context is not None:
        settings["context_length"] = load.context
    try:
        with cotcli.load(load.name, on_progress=on_progress, on_note=on_note, **settings) as reasoner:
            yield reasoner
    finally:
        progress.hide()


def _image_cache(load: LoadOptions, output: OutputOptions) -> ImageCache | bool:
    if not load.image_cache:
        return False
    from cotcli.image_cache import DEFAULT_BYTES, ImageCache

    size = DEFAULT_BYTES if load.image_cache_bytes is None else load.image_cache_bytes
    return ImageCache(max_bytes=size, on_note=note if output.verbose else None)
