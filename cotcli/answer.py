"""The results that generation, rendering and the Python API share, and the parameters they came from.

Knows their fields and which values are allowed. Knows nothing about how they are computed or shown.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from cotcli.errors import UsageError
from cotcli.stages import STAGES

FINISH_REASONS = ("stop", "length", "stage_length", "context", "interrupted")
# libllama reads 2**32 - 1 as "draw a seed", which no record could reproduce.
MAX_SEED = 2**32 - 2


@dataclass(frozen=True)
class GenerationParams:
    """How an answer is generated; the defaults are LLaVA-CoT's own.

    Attributes:
        temperature: 0 is greedy.
        top_p: keeps the most likely tokens up to this share of probability, in (0, 1]; 1 is off.
        top_k: keeps this many tokens; 0 is off.
        min_p: drops tokens less likely than this share of the most likely one, in [0, 1); 0 is off.
        repeat_penalty: divides the logits of recent tokens; 1 is off.
        seed: 0 to 2**32 - 2. The same seed, parameters, files and device give the same text.
        max_tokens: of the whole answer.
        stage_max_tokens: (stage, tokens) for the stages with a limit of their own.
        choices: the conclusion is one of these.
        json_schema: the conclusion is JSON that this JSON Schema, given as text, accepts.

    Raises:
        UsageError: a value is out of range, or choices and json_schema are both given.
    """

    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int = 0
    max_tokens: int = 2048
    stage_max_tokens: tuple[tuple[str, int], ...] = ()
    choices: tuple[str, ...] | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.temperature < math.inf, "temperature", "0 or more", self.temperature)
        _require(0 < self.top_p <= 1, "top_p", "above 0 and at most 1", self.top_p)
        _require(0 <= self.top_k < 2**31, "top_k", "0 (off) or more, below 2**31", self.top_k)
        _require(0 <= self.min_p < 1, "min_p", "at least 0 and below 1", self.min_p)
        _require(0 < self.repeat_penalty < math.inf, "repeat_penalty", "above 0", self.repeat_penalty)
        _require(0 <= self.seed <= MAX_SEED, "seed", f"0 to {MAX_SEED}", self.seed)
        _require(self.max_tokens >= 1, "max_tokens", "1 or more", self.max_tokens)
        for stage, tokens in self.stage_max_tokens:
            _require(stage in STAGES, "a stage in stage_max_tokens", f"one of {', '.join(STAGES)}", stage)
            _require(tokens >= 1, f"stage_max_tokens of {stage}", "1 or more", tokens)
        names = [stage for stage, _ in self.stage_max_tokens]
        _require(len(set(names)) == len(names), "stage_max_tokens", "given once a stage", ", ".join(names))
        if self.choices is not None:
            distinct = len(set(self.choices)) == len(self.choices) and all(choice.strip() for choice in self.choices)
            _require(bool(self.choices) and distinct, "choices", "different and not empty", ",".join(self.choices))
            for choice in self.choices:  # which no grammar can hold
                _require(_is_whole(choice), "choices", "whole characters", ascii(choice))
        if self.json_schema is not None:
            _require(self.choices is None, "json_schema", "given without choices", "both")
            _check_schema(self.json_schema)


def _require(holds: bool, name: str, what: str, value: object) -> None:
    if not holds:
        raise UsageError(f"{name} must be {what}, not {value}")


def _is_whole(text: str) -> bool:
    """Whether there are no halves of surrogate pairs in it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _check_schema(text: str) -> None:
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the JSON Schema is not JSON: {error}") from None
    except RecursionError:
        raise UsageError("the JSON Schema is nested too deeply") from None
    _require(_is_whole(text), "the JSON Schema", "text of whole characters", "halves of some")
    _require(isinstance(schema, dict), "the JSON Schema", "an object", type(schema).__name__)


@dataclass(frozen=True)
class ImageInfo:
    """The picture asked about: where it came from, the SHA-256 of its bytes, and its size in pixels after EXIF."""

    path: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class ModelInfo:
    """The model that answered. `sha256` is that of its language file where it is known; `device` is for people.

    `stage_format` is how it was taken to write stages, as in `cotcli.load`. The rest tells apart what goes by the same
    name: `pair_id` checkpoints, as both files have it, `mmproj_id` the types of the vision file's weights, `prompt_id`
    wordings of prompt and stages (`models.toml`).
    """

    name: str
    quant: str
    sha256: str | None
    device: str
    stage_format: str
    pair_id: str | None = None
    mmproj_id: str | None = None
    prompt_id: str | None = None


@dataclass(frozen=True)
class Usage:
    """Tokens read (the image counts as one; of every turn), tokens written, and tiles the image was cut into."""

    prompt_tokens: int
    completion_tokens: int
    image_tiles: int


@dataclass(frozen=True)
class Timing:
    """Wall time of each step in milliseconds. `load` is 0 for a model that was loaded before.

    `image` is the reading of the picture, wherever it was done, and its encoding, near 0 for one that was known. Where
    answers are written together, the passes are shared: `prompt` and `decode` are then how long this answer took, with
    what the others did in that time, so that those of several answers add up to more than the time that passed.
    """

    load: float = 0.0
    image: float = 0.0
    prompt: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A staged answer.

    Attributes:
        question: as asked.
        image: None for a question without a picture.
        stages: stage -> text, trimmed, in the order of `STAGES`; stages that were not written are absent.
        answer: the conclusion; empty if there is none.
        raw: everything the model wrote, tags and headings included; where it answers in turns, a blank line between.
        finish_reason: `stop` (the model ended its turn), `length` (max_tokens), `stage_length` (a stage's own limit),
            `context` (the context is full) or `interrupted`.
        cut_in: the stage that was open when generation was ended early; None if the model ended it, or outside any.
    """

    question: str
    image: ImageInfo | None
    stages: Mapping[str, str]
    answer: str
    raw: str
    finish_reason: str
    model: ModelInfo
    params: GenerationParams
    usage: Usage
    timing: Timing = field(default_factory=Timing)
    cut_in: str | None = None

    @property
    def ok(self) -> bool:
        """Whether there is a whole conclusion. One that was cut in the middle may say 1 where 14 was meant."""
        return bool(self.answer) and self.cut_in != "conclusion" and self.finish_reason != "interrupted"


@dataclass(frozen=True)
class TokenScore:
    """One token of a given answer: its text, its id, and its natural log-probability after all that precedes it."""

    token: str
    id: int
    logprob: float


@dataclass(frozen=True)
class AnswerScore:
    """How likely a model finds a given answer, token by token."""

    question: str
    image: ImageInfo | None
    answer: str
    tokens: tuple[TokenScore, ...]
    model: ModelInfo
    usage: Usage
    timing: Timing = field(default_factory=Timing)

    @property
    def logprob(self) -> float:
        """Natural log-probability of the whole answer: the sum over its tokens."""
        return math.fsum(token.logprob for token in self.tokens)

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log-probability a token; 1.0 for an answer without tokens."""
        return math.exp(-self.logprob / len(self.tokens)) if self.tokens else 1.0
