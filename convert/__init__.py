"""HF checkpoint -> a pair of GGUF files that cotcli runs: the ``language`` file and the ``mmproj`` file.

    sources.py        where a checkpoint's files come from: a folder here,
    repository.py     or a repository on the hub, whose shards are here only while they are read
    config.py      1  config.json and its companions -> HParams
    shards.py         safetensors files, rows on demand
    checkpoint.py  2  the checkpoint as a whole, checked against the table of tensors
    tokenizer.py   3  tokenizer.json -> llama.cpp's vocabulary
    quantize.py       which type each tensor gets
    plan.py           what a file will hold, and where
    language.py    4  the language file's plan
    vision.py      5  the mmproj file's plan
    parts.py          tensors -> bytes of a file in the making, by chunks and threads
    journal.py        what an unfinished conversion has done
    needs.py          what is about to be done, and the disk that it takes
    pair.py        6  both plans -> files, shard by shard, all or nothing
    ready.py          a pair that needs no conversion, from the hub

Needs no torch. ``python -m convert`` is the command ``cotcli convert``.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from convert.checkpoint import open_checkpoint
from convert.config import IntermediateStates
from convert.journal import journal_key
from convert.language import plan_language
from convert.needs import DiskNeeds, Survey
from convert.pair import (
    JOURNAL,
    Plan,
    Progress,
    disk_errors,
    disk_needs,
    shards_to_fetch,
    tidy,
    write_pair,
)
from convert.quantize import QUANTIZATIONS, VISION_TYPES, find_quantization, find_vision_type
from convert.ready import install_ready, survey_ready
from convert.repository import Repository
from convert.sources import Folder, Source
from convert.tokenizer import read_vocabulary
from convert.vision import plan_mmproj
from cotcli.errors import CheckpointError, HubError, ResourceError, UsageError
from cotcli.hub_errors import is_gone
from cotcli.install import downloads_beside, locked, work_beside
from cotcli.native.cpu import available_threads

__all__ = [
    "QUANTIZATIONS",
    "VISION_TYPES",
    "ConvertedPair",
    "DiskNeeds",
    "IntermediateStates",
    "Progress",
    "Repository",
    "Survey",
    "checkpoint_repo",
    "convert",
    "install_ready",
    "survey",
    "survey_ready",
    "tidy",
]

_MAX_THREADS = 16  # each holds some 50 MB


@dataclass(frozen=True)
class ConvertedPair:
    """What ``convert`` has written. ``pair_id`` stands in both files; sizes are in bytes."""

    language: Path
    mmproj: Path
    quantization: str
    vision_type: str
    pair_id: str
    language_bytes: int
    mmproj_bytes: int


def convert(
    source: Path | str | Repository,
    out_dir: Path | str,
    quantization: str = "q4_k_m",
    vision_type: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    intermediate_states: IntermediateStates = "auto",
    on_plan: Callable[[Survey], None] | None = None,
) -> ConvertedPair:
    """Converts a checkpoint into ``<name>-<QUANT>.gguf`` and ``<name>-<QUANT>.mmproj.gguf`` in ``out_dir``.

    Beside them goes ``<name>-<QUANT>.json``, the record of both (``cotcli.install``). From a ``Repository`` it is a
    download too, shard by shard; one that has ended early goes on where it stopped when the same call is made again.

    Args:
        source: a folder with config.json, preprocessor_config.json, tokenizer.json and safetensors files, or a
            repository of these on the hub.
        out_dir: made if it is not there. Files of the same names are replaced at the end.
        quantization: one of ``QUANTIZATIONS``; the cross-attention layers follow it too.
        vision_type: one of ``VISION_TYPES`` for vision tower and projector; None is f16, or f32 beside f32.
        name: the first part of the file names; None takes it from the folder or the repository.
        progress: called in this thread after each piece of work.
        threads: None is one for each CPU this process may use, 16 at most.
        intermediate_states: see ``convert.config.read_config``.
        on_plan: called when all that can be refused has been, and before anything large is fetched or written.

    Raises:
        UsageError: an unknown type or an impossible name.
        CheckpointError: the checkpoint is broken, incomplete or of another architecture; nothing has been written.
        HubError: the hub cannot be reached, or does not give the checkpoint.
        ResourceError: not enough disk, or the folder cannot be written; nothing half-written is left, but for what an
            unfinished download goes on from.
    """
    target = _Target(source, Path(out_dir), quantization, vision_type, name, intermediate_states)
    with _made(target.language.parent) as new_folders, locked(target.language):
        with _dropped_unless_begun(target.language), disk_errors(target.language.parent, kept=True):
            plan = target.plan(downloads_beside(target.language))
        if on_plan is not None:
            on_plan(_survey(plan))
        new_folders.clear()
        record = write_pair(plan, threads or _default_threads(), progress)
    return ConvertedPair(
        language=target.language,
        mmproj=target.language.with_name(record.mmproj.name),
        quantization=plan.quant,
        vision_type=plan.vision_type,
        pair_id=record.pair_id or "",
        language_bytes=record.language.bytes,
        mmproj_bytes=record.mmproj.bytes,
    )


def survey(
    source: Path | str | Repository,
    out_dir: Path | str,
    quantization: str = "q4_k_m",
    vision_type: str | None = None,
    name: str | None = None,
    intermediate_states: IntermediateStates = "auto",
) -> Survey:
    """What ``convert`` with the same arguments would do, and whether there is disk for it. Changes nothing.

    Raises:
        UsageError, CheckpointError, HubError: as ``convert``.
    """
    target = _Target(source, Path(out_dir), quantization, vision_type, name, intermediate_states)
    with tempfile.TemporaryDirectory(prefix="cotcli-") as folder:
        return _survey(target.plan(Path(folder)))


def _survey(plan: Plan) -> Survey:
    source, shards = plan.checkpoint.source, plan.checkpoint.shards
    return Survey(
        language=plan.language,
        origin=source.origin,
        files={shard: source.size(shard) for shard in shards},
        to_fetch=shards_to_fetch(plan),
        result_bytes=plan.result_bytes,
        disk=disk_needs(plan),
    )


class _Target:
    """The arguments of a conversion, checked as far as they can be before anything is opened."""

    def __init__(
        self,
        source: Path | str | Repository,
        out_dir: Path,
        quantization: str,
        vision_type: str | None,
        name: str | None,
        intermediate_states: IntermediateStates,
    ) -> None:
        self._source = Path(source) if isinstance(source, str) else source
        self._quantization = find_quantization(quantization)
        self._vision_type = find_vision_type(vision_type, self._quantization)
        self._intermediate_states = intermediate_states
        repo = self._source.id if isinstance(self._source, Repository) else checkpoint_repo(self._source)
        self._name = repo.rpartition("/")[2] if name is None else name
        if not self._name or Path(self._name).name != self._name:
            raise UsageError(f"{self._name!r} cannot be the first part of a file name")
        self.language = out_dir / f"{self._name}-{self._quantization.name}.gguf"

    def plan(self, downloads: Path) -> Plan:
        """Opens the source, whose small files go into ``downloads`` if they are not on this machine."""
        source = self._open(downloads)
        try:
            checkpoint = open_checkpoint(source, self._intermediate_states)
            vocabulary = read_vocabulary(source.folder, checkpoint.config.hparams.text)
        except CheckpointError as error:
            if not isinstance(self._source, Repository):
                raise
            # Where its files were meanwhile would tell nobody anything.
            raise CheckpointError(error.message.replace(str(source.folder), source.name), error.hint) from error
        return Plan(
            self.language,
            checkpoint,
            (
                plan_language(checkpoint, vocabulary, self._quantization, self._name),
                plan_mmproj(checkpoint, self._quantization, self._vision_type, self._name),
            ),
            self._quantization.name,
            self._vision_type.name,
        )

    def _open(self, downloads: Path) -> Source:
        if not isinstance(self._source, Repository):
            if not self._source.is_dir():
                raise CheckpointError(f"{self._source} is not a folder", "Give the folder of a Hugging Face checkpoint")
            return Folder(self._source)
        revision = self._source.revision
        begun = journal_key(work_beside(self.language) / JOURNAL) or {}
        if revision is None and begun.get("repo") == self._source.id:
            revision = begun.get("revision")
        try:
            return replace(self._source, revision=revision).open(downloads)
        except HubError as error:
            if self._source.revision == revision or not is_gone(error):
                raise
            raise HubError(
                f"{error.message}, with which an unfinished conversion began",
                f"To begin anew: cotcli model pull {self._name}:{self._quantization.name} --force, "
                f"or cotcli convert {self._source.id} --revision main",
            ) from error


def checkpoint_repo(source: Path) -> str:
    """`OWNER/NAME` in the Hugging Face cache, where the folder's own name is a hash; elsewhere the folder's name."""
    folder = source.resolve()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return folder.name


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[list[Path]]:
    """A folder that is there. Those that had to be made, which the block gets, go again if it fails, if empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        yield missing
    except BaseException:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


@contextlib.contextmanager
def _dropped_unless_begun(language: Path) -> Iterator[None]:
    """If the block fails, what it downloaded goes, unless an unfinished conversion is there to be gone on with."""
    try:
        yield
    except BaseException:
        work = work_beside(language)
        if not (work / JOURNAL).exists():
            shutil.rmtree(work, ignore_errors=True)
        raise


def _default_threads() -> int:
    return min(available_threads(), _MAX_THREADS)
