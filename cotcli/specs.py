"""`models.toml` and the user's own -> what is known about each model.

Knows the form of `models.toml` and where cotcli keeps things. Knows nothing of GGUF files.

The bundled `models.toml` comes first. A `models.toml` in `home()` has the same form, but for `files`: a model it names
anew is added, and of one that is known it changes the keys it gives.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from cotcli.answer import GenerationParams
from cotcli.errors import ModelNotFoundError, UsageError
from cotcli.stages import Section, StageFormat, Turn

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODELS_TOML = "models.toml"
QUESTION = "{question}"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TEXT, _WHOLE, _NUMBER, _TABLE = "a string", "a whole number, 0 or more", "a number", "a table"
_FLAG, _TABLES = "true or false", "an array of tables"
_SHA256, _COMMIT = "64 hexadecimal digits", "a commit: 40 hexadecimal digits"
_KEYS = {
    "description": _TEXT,
    "licence": _TEXT,
    "repo": _TEXT,
    "revision": _TEXT,
    "stage_format": _TEXT,
    "prompt": _TEXT,
    "sections": _TABLES,
    "turns": _TABLES,
    "bos_count": _WHOLE,
    "default_quant": _TEXT,
    "download_bytes": _WHOLE,
    "sizes": _TABLE,
    "working_bytes": _WHOLE,
    "sampling": _TABLE,
    "ready": _TABLES,
}
SAMPLING = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "top_k": _WHOLE,
    "min_p": _NUMBER,
    "repeat_penalty": _NUMBER,
    "max_tokens": _WHOLE,
}
_SECTION = {"heading": _TEXT, "stage": _TEXT, "kept": _FLAG}
_TURN = {"stage": _TEXT, "prompt": _TEXT}
_READY = {
    "quant": _TEXT,
    "repo": _TEXT,
    "revision": _COMMIT,
    "language": _TEXT,
    "mmproj": _TEXT,
    "language_sha256": _SHA256,
    "mmproj_sha256": _SHA256,
}


@dataclass(frozen=True)
class BundledPair:
    """A GGUF pair inside the package, with the SHA-256 of each file."""

    quant: str
    language: str
    mmproj: str
    language_sha256: str
    mmproj_sha256: str


@dataclass(frozen=True)
class ReadyPair:
    """A GGUF pair in a repository on the hub: its files' paths there, and the SHA-256 of each."""

    quant: str
    repo: str
    revision: str
    language: str
    mmproj: str
    language_sha256: str
    mmproj_sha256: str


@dataclass(frozen=True)
class ModelSpec:
    """What cotcli knows about a model before it opens its files.

    Attributes:
        stage_format: one of `cotcli.stages.FORMATS`.
        prompt: how a question is put to the model: `{question}` in it stands for the question.
        sections, turns: the wording of those formats, see `cotcli.stages.StageFormat`; a first turn's prompt is like
            `prompt`, which is not used then.
        bos_count: how many `<|begin_of_text|>` the model is given before the question.
        sampling: the model's own defaults, under the names of `GenerationParams`.
        repo, revision: the checkpoint on the Hugging Face hub; without a revision it is the main branch.
        default_quant: the pair to install, and to use where several are installed.
        download_bytes: of the checkpoint, about; None if it is not known.
        sizes: of an installed pair in bytes, by quantization, about.
        working_bytes: what a loaded model takes in memory besides its weights, about; None if it is not known.
        files, ready: pairs inside the package, and pairs on the hub that need no conversion.

    Raises:
        UsageError: there is no such stage format, or its wording is not complete.
    """

    name: str
    description: str = ""
    licence: str = ""
    repo: str | None = None
    revision: str | None = None
    stage_format: str = "tags"
    prompt: str = QUESTION
    sections: tuple[Section, ...] = ()
    turns: tuple[Turn, ...] = ()
    bos_count: int = 1
    default_quant: str | None = None
    download_bytes: int | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    working_bytes: int | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)
    files: tuple[BundledPair, ...] = ()
    ready: tuple[ReadyPair, ...] = ()

    def __post_init__(self) -> None:
        self.stages  # noqa: B018  # the class checks the parts
        if self._prompt.count(QUESTION) != 1:
            where = "prompt" if self.stage_format != "turns" else "the first of turns"
            raise UsageError(f"{where} must have {QUESTION} in it once")

    @property
    def params(self) -> GenerationParams:
        """The generation parameters to start from."""
        return GenerationParams(**self.sampling)  # type: ignore[arg-type]  # checked by _extend and by the class

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What it takes in memory on a CPU, by quantization, about: 4096 tokens, a picture of all tiles."""
        return {quant: size + self.working_bytes for quant, size in self.sizes.items()} if self.working_bytes else {}

    def ready_as(self, quant: str) -> ReadyPair | None:
        """The pair of that quantization on the hub, if there is one."""
        return next((pair for pair in self.ready if pair.quant.upper() == quant.upper()), None)

    @property
    def stages(self) -> StageFormat:
        """How it writes its stages."""
        return StageFormat(self.stage_format, self.sections, self.turns)

    @property
    def prompt_id(self) -> str:
        """16 hex digits that tell what the model is given besides the question, and how stages are told apart."""
        wordings: dict[str, tuple[Section | Turn, ...]] = {"sections": self.sections, "turns": self.turns}
        wording = wordings.get(self.stage_format, ())
        parts = [self.stage_format, self._prompt, self.bos_count, [asdict(part) for part in wording]]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]

    @property
    def _prompt(self) -> str:
        return self.turns[0].prompt if self.stage_format == "turns" else self.prompt

    def wording(self, question: str) -> str:
        """What the user's turn says when this is asked."""
        return self._prompt.replace(QUESTION, question)


def home() -> Path:
    """Where cotcli keeps what it installs: `COTCLI_HOME`, or the platform's folder for a user's data."""
    override = os.environ.get("COTCLI_HOME")
    if override:
        return Path(override).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("cotcli", appauthor=False))


def cache_home() -> Path:
    """Where cotcli keeps what it can make again: in `COTCLI_HOME`, or the platform's folder for a user's caches."""
    if os.environ.get("COTCLI_HOME"):
        return home() / "cache"
    import platformdirs

    return Path(platformdirs.user_cache_dir("cotcli", appauthor=False))


def is_name(text: str) -> bool:
    """Whether a model can be called that: what else `--model` takes is a path, and `NAME:QUANT`."""
    return _NAME.fullmatch(text) is not None and not text.endswith(".gguf")


def specs() -> dict[str, ModelSpec]:
    """All models by name, the bundled entries first.

    Raises:
        UsageError: the user's `models.toml` is broken; the message names the file and the key.
    """
    return _all()[0]


def bundled_specs() -> dict[str, ModelSpec]:
    """The models of the bundled file alone, by name."""
    return dict(_bundled()[0])


def default_model() -> str:
    """The name of the model that is used when none is given."""
    return _all()[1]


def did_you_mean(name: str) -> str:
    """The beginning of a hint that tells of the known model whose name is most like this one; empty if none is."""
    from difflib import get_close_matches

    near = get_close_matches(name.lower(), specs(), 1)
    return f"Did you mean {near[0]}? " if near else ""


def spec_of_repo(repo: str) -> ModelSpec | None:
    """The model of a Hugging Face repository, given by its id `OWNER/NAME`, or by its NAME alone; in any case."""
    repo = repo.lower()
    ids = ((spec, spec.repo.lower()) for spec in specs().values() if spec.repo)
    return next((spec for spec, id in ids if repo in (id, id.rpartition("/")[2])), None)


def _all() -> tuple[dict[str, ModelSpec], str]:
    known, default = _bundled()
    own = home() / MODELS_TOML
    return _read(own, known, default, files=False) if own.exists() else (known, default)


@cache
def _bundled() -> tuple[dict[str, ModelSpec], str]:
    """In the package in an installed wheel, beside the package in a working tree."""
    package = Path(__file__).parent
    places = (package / MODELS_TOML, package.parent / MODELS_TOML)
    place = next((path for path in places if path.is_file()), None)
    if place is None:
        raise ModelNotFoundError(
            "models.toml is missing from the installation", "Install cotcli again: pip install --force-reinstall cotcli"
        )
    return _read(place, {}, "", files=True)


def _read(
    place: Path, known: Mapping[str, ModelSpec], default: str, *, files: bool
) -> tuple[dict[str, ModelSpec], str]:
    """What was known, extended by one file; `files` allows entries to name GGUF files of the package."""
    try:
        content: dict[str, Any] = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{place}: {error.strerror or error}") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise UsageError(f"{place}: {error}", "It has the form of cotcli's own models.toml") from None
    models = content.pop("models", {})
    default = content.pop("default", default)
    _check(place, "default", default, _TEXT)
    _check(place, "models", models, _TABLE)
    for key in content:
        raise _unknown(place, key, ("default", "models"))
    merged = dict(known)
    for name, entry in models.items():
        key = f"models.{name}"
        if not is_name(name):
            raise UsageError(f"{place}: {key}: a name has letters, digits and . _ - only")
        _check(place, key, entry, _TABLE)
        entry = dict(entry)
        pairs = tuple(BundledPair(**pair) for pair in entry.pop("files", ())) if files else ()
        spec = _extend(place, key, merged.get(name, ModelSpec(name)), entry)
        merged[name] = replace(spec, files=pairs or spec.files)
    return merged, default


def _extend(place: Path, key: str, spec: ModelSpec, entry: Mapping[str, Any]) -> ModelSpec:
    """A model with the keys of one entry in place of its own; those of `sampling` one by one."""
    sampling, sizes = entry.get("sampling", {}), entry.get("sizes", {})
    _check_keys(place, key, entry, _KEYS)
    _check_keys(place, f"{key}.sampling", sampling, SAMPLING)
    _check_keys(place, f"{key}.sizes", sizes, dict.fromkeys(sizes, _WHOLE))
    changed: dict[str, Any] = {**entry, "sampling": {**spec.sampling, **sampling}, "sizes": {**spec.sizes, **sizes}}
    parts: tuple[tuple[str, type, dict[str, str], int], ...] = (
        ("sections", Section, _SECTION, 2),
        ("turns", Turn, _TURN, 2),
        ("ready", ReadyPair, _READY, len(_READY)),
    )
    for name, part, kinds, needed in parts:
        if name in entry:
            for number, table in enumerate(entry[name], 1):
                _check_keys(place, f"{key}.{name}, number {number}", table, kinds, needed=list(kinds)[:needed])
            changed[name] = tuple(part(**table) for table in entry[name])
    try:
        spec = replace(spec, **changed)
        spec.params  # noqa: B018  # the class checks the values
    except UsageError as error:
        raise UsageError(f"{place}: {key}: {error.message}") from None
    return spec


def _check_keys(place: Path, path: str, table: Any, kinds: Mapping[str, str], needed: Sequence[str] = ()) -> None:
    _check(place, path, table, _TABLE)
    for name, value in table.items():
        if name not in kinds:
            raise _unknown(place, f"{path}.{name}", kinds)
        _check(place, f"{path}.{name}", value, kinds[name])
    for name in needed:
        if name not in table:
            raise UsageError(f"{place}: {path} has no {name}")


def _check(place: Path, key: str, value: object, kind: str) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    holds = {
        _TEXT: isinstance(value, str),
        _WHOLE: number and isinstance(value, int) and value >= 0,
        _NUMBER: number,
        _TABLE: isinstance(value, dict),
        _FLAG: isinstance(value, bool),
        _TABLES: isinstance(value, list),
        _SHA256: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
        _COMMIT: isinstance(value, str) and re.fullmatch("[0-9a-f]{40}", value) is not None,
    }
    if not holds[kind]:
        raise UsageError(f"{place}: {key} must be {kind}")


def _unknown(place: Path, key: str, known: Mapping[str, str] | tuple[str, ...]) -> UsageError:
    return UsageError(f"{place}: {key} is not known", f"It takes {', '.join(known)}")
