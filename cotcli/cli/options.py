"""The options that several commands share, and what their texts mean.

Each alias is an annotation for a parameter of a command; each `parse_` function turns a text into a value or raises
`UsageError`. None always means that the option was not given.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cotcli.answer import MAX_SEED
from cotcli.cli import completion
from cotcli.errors import UsageError
from cotcli.stages import STAGES

_INT32 = 2**31 - 1  # what libllama's parameters hold
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?) ?((?P<unit>[KMGT])(?P<binary>i)?)?B?", re.IGNORECASE)
_MAX_THREADS = 512  # GGML_MAX_N_THREADS
MAX_PARALLEL = 256  # LLAMA_MAX_SEQ

Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask.", show_default=False)]
Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Paths, globs, URLs, - for stdin or clipboard: for what was copied; one answer each.",
        show_default=False,
    ),
]
Image = Annotated[
    str,
    typer.Argument(
        metavar="IMAGE", help="A path, a URL, - for stdin or clipboard: for what was copied.", show_default=False
    ),
]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="A name (cotcli model ls) or the language GGUF of a pair.  [default: llava-cot, or as models.toml says]",
        autocompletion=completion.installed_models,
    ),
]
GpuLayers = Annotated[
    str,
    typer.Option("--gpu-layers", metavar="auto|all|N", help="Layers on the GPU; auto is what fits into its memory."),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="NAME,…", help="Where to compute (cotcli doctor); cpu for no GPU.  [default: all GPUs]"
    ),
]
RequireGpu = Annotated[bool, typer.Option("--require-gpu", help="Refuse to run on the CPU alone.")]
Rpc = Annotated[
    list[str] | None,
    typer.Option("--rpc", metavar="HOST:PORT", help="Use another machine's llama.cpp rpc-server; may be repeated."),
]
KvType = Annotated[
    Literal["f16", "f32"] | None,
    typer.Option("--kv-type", help="Of the key-value caches.  [default: f16; f32 beside F32 weights]"),
]
MemoryCheck = Annotated[
    bool,
    typer.Option(
        "--memory-check/--no-memory-check", help="Refuse what does not fit into free memory.", show_default=False
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        min=1,
        max=_MAX_THREADS,
        help="CPU threads.  [default: all cores; 1 for a model below 100 MB]",
    ),
]
ConversionThreads = Annotated[
    int | None,
    typer.Option(
        "--threads", metavar="N", min=1, max=_MAX_THREADS, help="CPU threads.  [default: all cores, 16 at most]"
    ),
]
Context = Annotated[
    int | None,
    typer.Option("--ctx", metavar="N", min=1, max=_INT32, help="Context length in tokens.  [default: 4096]"),
]

ImageCache = Annotated[
    bool,
    typer.Option(
        "--image-cache/--no-image-cache", help="Keep encoded pictures on disk, and look there.", show_default=False
    ),
]
ImageCacheSize = Annotated[
    str | None,
    typer.Option("--image-cache-size", metavar="SIZE", help="Most that may take, such as 500MB.  [default: 4GB]"),
]

Stages = Annotated[
    Literal["tags", "sections", "turns", "none"] | None,
    typer.Option(
        "--stages",
        help="How the model writes stages (models.toml); none: all is conclusion.  [default: the model's own]",
    ),
]

Temperature = Annotated[
    float | None, typer.Option("--temperature", metavar="T", help="0 is greedy.  [default: the model's own]")
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", metavar="P", help="Most likely tokens up to this share.  [default: the model's own]"),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", metavar="K", help="Most likely tokens; 0 is off.  [default: the model's own]")
]
MinP = Annotated[
    float | None,
    typer.Option("--min-p", metavar="P", help="Least share of the likeliest token's.  [default: the model's own]"),
]
RepeatPenalty = Annotated[
    float | None, typer.Option("--repeat-penalty", metavar="R", help="1 is off.  [default: the model's own]")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="-1 draws one.  [default: 0]")]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", help="Limit of the whole answer.  [default: the model's own]")
]
StageMaxTokens = Annotated[
    list[str] | None,
    typer.Option(
        "--stage-max-tokens",
        metavar="STAGE=N",
        help="Limit of one stage; may be repeated.",
        autocompletion=completion.limited_stages,
    ),
]
Choices = Annotated[
    str | None, typer.Option("--choices", metavar="A,B,…", help="The conclusion is one of these, by grammar.")
]
Schema = Annotated[
    Path | None,
    typer.Option("--schema", metavar="FILE", help="The conclusion is JSON of this JSON Schema, by grammar."),
]
ScoredAnswer = Annotated[str, typer.Option("--answer", metavar="TEXT", help="The answer to score.", show_default=False)]

Json = Annotated[bool, typer.Option("--json", help="One JSON record a picture (cotcli schema).")]
StreamJson = Annotated[bool, typer.Option("--stream-json", help="JSON events as they come, the record last.")]
Show = Annotated[
    str | None,
    typer.Option(
        "--show",
        metavar="all|raw|STAGE,…",
        help="Stages to show: summary, caption, reasoning, conclusion.  [default: all; conclusion in a pipe]",
        autocompletion=completion.shown_stages,
    ),
]
Color = Annotated[
    Literal["auto", "always", "never"],
    typer.Option("--color", help="Colours; always gives a pipe the terminal's view too."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done, and what disk it takes.")]
Offline = Annotated[
    bool, typer.Option("--offline", help="Ask no hub: take the checkpoint from the Hugging Face cache.")
]
Verbose = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv adds llama.cpp's log.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes.")]


def parse_show(text: str | None) -> tuple[str, ...] | None:
    """`all`, `raw`, or stages separated by commas; in the order of an answer."""
    if text is None:
        return None
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if names == ["all"]:
        return STAGES
    if names == ["raw"]:
        return ("raw",)
    unknown = [name for name in names if name not in STAGES]
    if unknown or not names:
        raise UsageError(f"--show does not know {unknown[0] if unknown else repr(text)}", _SHOW_HINT)
    return tuple(stage for stage in STAGES if stage in names)


_SHOW_HINT = f"It takes all, raw, or some of {','.join(STAGES)}"


def parse_seed(seed: int | None) -> int | None:
    """-1 draws a seed, which the record then states."""
    return random.SystemRandom().randint(0, MAX_SEED) if seed == -1 else seed


def parse_stage_limits(texts: list[str] | None) -> tuple[tuple[str, int], ...] | None:
    """`STAGE=N` each."""
    if not texts:
        return None
    limits = []
    for text in texts:
        stage, equals, number = text.partition("=")
        if not equals or not number.strip().isdecimal():
            raise UsageError(f"--stage-max-tokens takes STAGE=N, not {text}", "For example: reasoning=400")
        limits.append((stage.strip().lower(), int(number)))
    return tuple(limits)


def parse_choices(text: str | None) -> tuple[str, ...] | None:
    """Texts separated by commas, trimmed."""
    return None if text is None else tuple(choice.strip() for choice in text.split(","))


def parse_gpu_layers(text: str) -> int | Literal["auto", "all"]:
    """`auto`, `all`, or a number, of which -1 is all."""
    word = text.strip().lower()
    if word == "auto":
        return "auto"
    if word == "all":
        return "all"
    try:
        layers = int(word)
    except ValueError:
        layers = -2
    if not -1 <= layers <= _INT32:
        raise UsageError(f"--gpu-layers takes auto, all or a number of layers, not {text}", "What fits: auto")
    return layers


def parse_size(text: str | None, option: str) -> int | None:
    """Bytes, such as `0`, `500MB`, `1.5 GB` or `4GiB`."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{option} takes a size, not {text}", "For example: 500MB, 4GB or 4GiB")
    base = 1024 if match["binary"] else 1000
    return int(float(match["number"]) * base ** " KMGT".index((match["unit"] or " ").upper()))


def read_schema(path: Path | None) -> str | None:
    """The text of a JSON Schema."""
    if path is None:
        return None
    import json

    try:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise UsageError(f"--schema {path}: {error.strerror or error}") from None
    except ValueError as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else f"is not JSON: {error}"
        raise UsageError(f"--schema {path}: {reason}") from None
    except RecursionError:
        raise UsageError(f"--schema {path}: is nested too deeply") from None
    return text


def check_question(text: str | None) -> None:
    """
    Raises:
        UsageError: it is blank, as it must not be in a file of questions either.
    """
    if text is not None and not text.strip():
        raise UsageError("the question is blank", 'For example: "What is in this picture?"')


def parse_generation(
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    min_p: float | None,
    repeat_penalty: float | None,
    seed: int | None,
    max_tokens: int | None,
    stage_max_tokens: list[str] | None,
    choices: str | None,
    schema: Path | None,
) -> dict[str, Any]:
    """What is said of `GenerationParams`, under their names; the others are the model's own."""
    params = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "repeat_penalty": repeat_penalty,
        "seed": parse_seed(seed),
        "max_tokens": max_tokens,
        "stage_max_tokens": parse_stage_limits(stage_max_tokens),
        "choices": parse_choices(choices),
        "json_schema": read_schema(schema),
    }
    return {name: value for name, value in params.items() if value is not None}
