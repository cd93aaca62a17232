"""A model's name or path -> what is known about it, and its two local GGUF files.

Knows where models are kept and what is installed. Knows nothing about what is in the files, and downloads nothing.

A pair is `NAME-QUANT.gguf` (language) and `NAME-QUANT.mmproj.gguf` (vision and cross-attention) in one folder; see
`cotcli.install`. Pairs are looked for in the package (`cotcli/data`) and in `<home>/models/NAME`; see
`cotcli.specs.home`.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from cotcli.errors import ModelError, ModelNotFoundError, UsageError
from cotcli.files import allocated
from cotcli.install import GGUF, LOCK, MMPROJ, PART, RECORD, WORK, InstallRecord, mmproj_beside, read_record, size_text
from cotcli.specs import ModelSpec, bundled_specs, did_you_mean, home, is_name, spec_of_repo, specs

_STEM = re.compile(r"(?P<name>.+)-(?P<quant>F32|F16|BF16|I?Q\d\w*)", re.IGNORECASE)
UNKNOWN_QUANT = "unknown"
# Of what may lie in a model's folder, the longest first.
_SUFFIXES = (MMPROJ + PART, GGUF + PART, RECORD + PART, GGUF + LOCK, MMPROJ, GGUF, RECORD, WORK)


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose two files are here.

    `sha256` is the language file's and `mmproj_sha256` the other's, as `models.toml` or the record beside them has it.
    """

    spec: ModelSpec
    quant: str
    language: Path
    mmproj: Path
    sha256: str | None = None
    mmproj_sha256: str | None = None
    record: InstallRecord | None = None

    @property
    def size(self) -> int:
        """Of both files together, in bytes."""
        return self.language.stat().st_size + self.mmproj.stat().st_size


def model_folder(name: str) -> Path:
    """Where the pairs of a model are installed."""
    return home() / "models" / name


def resolve(name_or_path: str | os.PathLike[str]) -> ResolvedModel:
    """Finds a model's files.

    Args:
        name_or_path: a name of `models.toml` or of an installed model, with `:QUANT` or without; or the language GGUF,
            whose vision GGUF lies beside it; or `LANGUAGE.gguf,VISION.gguf`; or a folder that holds one pair.

    Raises:
        ModelNotFoundError: there is no such model, or half of it is missing.
        UsageError: several pairs fit.
    """
    text = os.fspath(name_or_path)
    path = Path(text).expanduser()
    if isinstance(name_or_path, str) and _is_name(text):
        found = _by_name(text)
        if found is not None:
            return found
        if not path.exists():
            raise _unknown(text)
    if path.is_dir():
        return _in_folder(path)
    if path.is_file():
        return _from_files(path, _partner(path))
    language, comma, mmproj = text.rpartition(",")
    if comma:
        return _from_files(_existing(language), _existing(mmproj))
    raise ModelNotFoundError(f"there is no model {text}", "To see what is installed: cotcli model ls")


def installed() -> list[ResolvedModel]:
    """Every pair in the package and in the models folder, by name, the default quantization first."""
    return [pair for name in sorted({*_folders(), *specs()}) for pair in _pairs_of(name)]


def bundled(name: str) -> ResolvedModel:
    """The pair that the package itself carries, whatever the user's `models.toml` or models folder has of that name.

    Raises:
        ModelNotFoundError: it is not there.
    """
    spec = bundled_specs()[name]
    pairs = _bundled_pairs(spec)
    if not pairs:
        raise _not_installed(spec)
    return pairs[0]


@dataclass(frozen=True)
class Traces:
    """All that there is of one model in one quantization: its files, their record, what is unfinished."""

    name: str
    quant: str
    language: Path
    paths: tuple[Path, ...]

    @property
    def unfinished(self) -> bool:
        """Whether a download was begun that has not come to its end."""
        return any(path.name.endswith(WORK) for path in self.paths)

    @property
    def size(self) -> int:
        """What all of it takes on the disk, in bytes."""
        files = [file for path in self.paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
        return sum(allocated(file) for file in files if file.is_file())


def traces(name: str, quant: str | None = None) -> list[Traces]:
    """What there is of a model in its folder, by quantization; the bundled one has no folder."""
    folder = model_folder(name)
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if is_name(name) and folder.is_dir() else []:
        suffix = next((suffix for suffix in _SUFFIXES if path.name.endswith(suffix)), None)
        if suffix is not None and path.is_dir() == (suffix == WORK):
            found.setdefault(path.name.removesuffix(suffix), []).append(path)
    parts = [(_STEM.fullmatch(stem), stem, paths) for stem, paths in found.items()]
    return [
        Traces(name, match["quant"] if match else UNKNOWN_QUANT, folder / f"{stem}{GGUF}", tuple(paths))
        for match, stem, paths in parts
        if quant is None or (match and match["quant"].upper() == quant.upper())
    ]


def unfinished() -> list[Traces]:
    """Downloads that were begun and have not come to their end, where no finished pair is."""
    return [one for name in sorted(_folders()) for one in traces(name) if one.unfinished and not one.language.exists()]


def _folders() -> set[str]:
    """Names of models that have a folder."""
    root = home() / "models"
    return {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()


def how_to_go_on(trace: Traces) -> str:
    """The command that brings an unfinished download to its end."""
    spec = specs().get(trace.name)
    if spec is not None:
        return how_to_install(spec, trace.quant)
    return f"cotcli convert OWNER/REPO --name {trace.name} --type {trace.quant}"


def _is_name(text: str) -> bool:
    name, colon, quant = text.partition(":")
    return is_name(name) and (re.fullmatch(r"\w+", quant, re.ASCII) is not None if colon else True)


def _by_name(text: str) -> ResolvedModel | None:
    name, _, quant = text.partition(":")
    pairs = _pairs_of(name)
    if quant:
        pairs = [pair for pair in pairs if pair.quant.upper() == quant.upper()]
        if not pairs and (name in specs() or model_folder(name).is_dir()):
            raise _not_installed(specs().get(name) or ModelSpec(name), quant.upper())
    if not pairs:
        return None
    if len(pairs) > 1 and pairs[0].quant != pairs[0].spec.default_quant:
        quants = ", ".join(f"{name}:{pair.quant}" for pair in pairs)
        raise UsageError(f"{name} is installed in several quantizations", f"Name one of them: {quants}")
    return pairs[0]


def _unknown(text: str) -> ModelNotFoundError:
    name = text.partition(":")[0]
    spec = specs().get(name)
    if spec is None:
        hint = f"{did_you_mean(name)}To see what is installed: cotcli model ls"
        return ModelNotFoundError(f"there is no model {text}", hint)
    return _not_installed(spec)


def _not_installed(spec: ModelSpec, quant: str | None = None) -> ModelNotFoundError:
    hint = f"To install it: {how_to_install(spec, quant)}"
    if not spec.files:
        size = how_large(spec, quant)
        hint += f"{f' ({size})' if size else ''}. The bundled model runs now: cotcli demo"
    named = f"{spec.name} is not installed as {quant}" if quant else f"the model {spec.name} is not installed"
    return ModelNotFoundError(named, hint)


def how_to_install(spec: ModelSpec, quant: str | None = None) -> str:
    """The command that installs a model."""
    if spec.files:
        return "pip install --force-reinstall cotcli"
    if spec.repo is None and not spec.ready:
        return f"cotcli convert SRC --name {spec.name}{f' --type {quant}' if quant else ''}"
    return f"cotcli model pull {spec.name}{f':{quant}' if quant else ''}"


def how_to_install_again(spec: ModelSpec, quant: str) -> str:
    """The command that replaces what is installed."""
    return how_to_install(spec) if spec.files else f"{how_to_install(spec, quant)} --force"


def how_large(spec: ModelSpec, quant: str | None = None) -> str:
    """What installing a model takes, in words; empty if it is not known."""
    quant = quant or spec.default_quant or ""
    size = spec.sizes.get(quant.upper())
    ready = spec.ready_as(quant) is not None
    download = size if ready else spec.download_bytes
    parts = [(download, "to download"), (None if ready else size, "on disk")]
    return ", ".join(f"{size_text(count)} {what}" for count, what in parts if count)


def _pairs_of(name: str) -> list[ResolvedModel]:
    """The pairs of one name, the default quantization first, then by quantization."""
    # One that was installed under the name of its repository is that model all the same.
    spec = specs().get(name) or replace(spec_of_repo(name) or ModelSpec(name), name=name)
    pairs = _bundled_pairs(spec)
    folder = model_folder(name)
    if folder.is_dir():
        pairs += [_from_files(language, mmproj, spec) for language, mmproj in _pairs_in(folder)]
    return sorted(pairs, key=lambda pair: (pair.quant != spec.default_quant, pair.quant))


def _bundled_pairs(spec: ModelSpec) -> list[ResolvedModel]:
    data = Path(__file__).parent / "data"
    return [
        ResolvedModel(
            spec, pair.quant, data / pair.language, data / pair.mmproj, pair.language_sha256, pair.mmproj_sha256
        )
        for pair in spec.files
        if (data / pair.language).is_file() and (data / pair.mmproj).is_file()
    ]


def _pairs_in(folder: Path) -> list[tuple[Path, Path]]:
    return [
        (path, mmproj_beside(path))
        for path in sorted(folder.glob(f"*{GGUF}"))
        if path.is_file() and not path.name.endswith(MMPROJ) and mmproj_beside(path).is_file()
    ]


def _in_folder(folder: Path) -> ResolvedModel:
    pairs = _pairs_in(folder)
    if not pairs:
        raise ModelNotFoundError(
            f"{folder} holds no pair NAME.gguf and NAME{MMPROJ}", "To make one from a checkpoint: cotcli convert"
        )
    if len(pairs) > 1:
        names = ", ".join(language.name for language, _ in pairs)
        raise UsageError(f"{folder} holds several models", f"Name the file of one: {names}")
    return _from_files(*pairs[0])


def _partner(path: Path) -> Path:
    """The vision file that belongs to a language file named on the command line."""
    if path.name.endswith(MMPROJ):
        language = path.name.removesuffix(MMPROJ) + GGUF
        raise UsageError(f"{path} is the vision half of a model", f"Give its language half: {path.with_name(language)}")
    mmproj = mmproj_beside(path)
    if not mmproj.is_file():
        raise ModelNotFoundError(
            f"{path} has no {mmproj.name} beside it", f"Give both files: --model {path},VISION.gguf"
        )
    return mmproj


def _existing(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ModelNotFoundError(f"there is no file {text}", "To see what is installed: cotcli model ls")
    return path


def _from_files(language: Path, mmproj: Path, spec: ModelSpec | None = None) -> ResolvedModel:
    """A pair by its file names: `llava-cot-Q4_K_M.gguf` is read as llava-cot, wherever it lies.

    So is `Llama-3.2V-11B-cot-Q4_K_M.gguf`, by the name of that model's repository.
    """
    stem = language.name.removesuffix(GGUF)
    match = _STEM.fullmatch(stem)
    name = match["name"] if match else stem
    spec = spec or specs().get(name) or spec_of_repo(name) or ModelSpec(name)
    quant = match["quant"] if match else UNKNOWN_QUANT
    record = _record_of(language)
    if record is None:
        return ResolvedModel(spec, quant, language, mmproj)
    return ResolvedModel(spec, quant, language, mmproj, record.language.sha256, record.mmproj.sha256, record)


def _record_of(language: Path) -> InstallRecord | None:
    """The record beside a pair, if it can be about this one: files may have been replaced by hand."""
    try:
        record = read_record(language)
    except ModelError:
        return None
    return record if record is not None and record.language.bytes == language.stat().st_size else None
