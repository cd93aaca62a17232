"""Writes two planned GGUF files so that a language file is never found without the mmproj file of its own conversion.

Both grow beside their final names. When everything has reached the disk, the former language file is removed, then the
mmproj file is renamed, the record of the pair, the language file last. So a run that is killed leaves the former pair
whole, or, within those steps, no language file: people and the registry go by that.

What a killed conversion of a folder leaves (``.part`` files) is removed by the next. One from a hub keeps all it has in
a folder of its own, ``NAME-QUANT.pull``, with a journal (``convert.journal``), and goes on from there. Knows no model.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from convert.checkpoint import Checkpoint
from convert.journal import Journal, is_finished
from convert.needs import DiskNeeds, free_bytes
from convert.parts import PartFile, begins_as_planned, shard_bytes, write_shard
from convert.plan import FilePlan
from convert.sources import fetched
from cotcli.errors import CheckpointError, ResourceError
from cotcli.files import NO_ROOM, allocated, sync_folder
from cotcli.install import (
    VERSION,
    InstallRecord,
    downloads_beside,
    file_record,
    lock_beside,
    locked,
    mmproj_beside,
    part_beside,
    record_beside,
    work_beside,
    write_record,
)

Progress = Callable[[str, int, int], None]
"""Called with the tensor just worked on, the bytes written so far and the bytes in all."""

JOURNAL = "journal.jsonl"
PARTS = ("language.part", "mmproj.part")


@dataclass(frozen=True)
class Plan:
    """A pair to be written: ``language`` is the path of its language file, from which all others follow."""

    language: Path
    checkpoint: Checkpoint
    plans: tuple[FilePlan, FilePlan]
    """Of the language file and the mmproj file."""
    quant: str
    vision_type: str

    @property
    def resumable(self) -> bool:
        return self.checkpoint.source.origin is not None

    @property
    def work(self) -> Path:
        """What a resumable conversion keeps between runs."""
        return work_beside(self.language)

    @property
    def downloads(self) -> Path:
        """Where shards are downloaded to: apart, since a repository names its files as it likes."""
        return downloads_beside(self.language)

    @property
    def journal(self) -> Path:
        return self.work / JOURNAL

    @property
    def parts(self) -> tuple[Path, Path]:
        if self.resumable:
            return self.work / PARTS[0], self.work / PARTS[1]
        return part_beside(self.language), part_beside(mmproj_beside(self.language))

    @property
    def result_bytes(self) -> int:
        """What the pair will take on the disk."""
        return sum(plan.file_bytes for plan in self.plans)

    def key(self) -> dict[str, str]:
        """What a journal must be about for this conversion to go on from it."""
        origin = self.checkpoint.source.origin
        front = hashlib.sha256(self.plans[0].front + self.plans[1].front).hexdigest()
        named = {"repo": origin.repo, "revision": origin.revision} if origin else {}
        return {**named, "front": front, "cotcli": VERSION}


def write_pair(plan: Plan, threads: int, progress: Progress | None = None) -> InstallRecord:
    """Writes both files into one folder, which must exist and be ``locked``.

    Raises:
        ResourceError: not enough disk.
        CheckpointError: a tensor holds NaN or infinity, or a shard shrank meanwhile.
        HubError: a shard cannot be had.
    """
    with disk_errors(plan.language.parent, plan.resumable):
        try:
            journal = _begin(plan)
            if journal.finishing is None:
                journal.finish(_write_shards(plan, journal, threads, progress).to_dict())
            assert journal.finishing is not None
            record = InstallRecord.from_dict(journal.finishing)
            install_pair(plan.language, plan.parts, record)
        except BaseException as error:
            if not plan.resumable or isinstance(error, CheckpointError) or not plan.journal.exists():
                _discard(plan)
            raise
        _discard(plan)
        return record


def disk_needs(plan: Plan) -> DiskNeeds:
    """How much disk this conversion still needs, with one shard at a time: each is fetched, read, and dropped."""
    source, missing = plan.checkpoint.source, shards_to_fetch(plan)
    written = plan.result_bytes - sum(shard_bytes(plan.plans, shard) for shard in missing)
    level = peak = max(0, written - _allocated(plan))
    level -= max(0, _allocated(plan) - written)  # of the shard at which it stopped
    for shard, count in missing.items():
        level += count + shard_bytes(plan.plans, shard)
        peak = max(peak, level)
        level -= source.takes(shard, plan.downloads)
    return DiskNeeds(peak, max(missing.values(), default=0), free_bytes(plan.language.parent))


def shards_to_fetch(plan: Plan) -> dict[str, int]:
    """The shards that this conversion still needs, and how many bytes of each are not on this machine."""
    done = Journal(plan.journal, plan.key()).digests if plan.resumable else {}
    source = plan.checkpoint.source
    return {shard: source.missing(shard, plan.downloads) for shard in plan.checkpoint.shards if shard not in done}


def _begin(plan: Plan) -> Journal:
    """The journal of this conversion, with both parts there and as the journal says."""
    journal = Journal(plan.journal if plan.resumable else None, plan.key())
    if journal.finishing is not None:
        keep = plan.parts[0].exists()  # it is the last to go
    else:
        keep = journal.begun and all(map(begins_as_planned, plan.parts, plan.plans))
    if not keep:
        for path in (plan.journal, *plan.parts):
            path.unlink(missing_ok=True)
        disk_needs(plan).check(plan.language.parent)
        if plan.resumable:
            plan.work.mkdir(exist_ok=True)
        for path, one in zip(plan.parts, plan.plans, strict=True):
            with PartFile(path, one, keep=False) as part:
                part.sync()
        journal.restart()
    elif journal.finishing is None:
        disk_needs(plan).check(plan.language.parent)
    return journal


def _write_shards(plan: Plan, journal: Journal, threads: int, progress: Progress | None) -> InstallRecord:
    """Goes on until both parts are whole, and all of them is on the disk."""
    checkpoint, source = plan.checkpoint, plan.checkpoint.source
    shards = [shard for shard in checkpoint.shards if shard not in journal.digests]
    for shard in journal.digests:
        source.release(shard, plan.downloads)
    total = sum(tensor.nbytes for one in plan.plans for tensor in one.tensors)
    done = sum(shard_bytes(plan.plans, shard) for shard in journal.digests)

    def on_chunk(tensor: str, nbytes: int) -> None:
        nonlocal done
        done += nbytes
        if progress is not None:
            progress(tensor, done, total)

    def room(more: int) -> bool:
        return shutil.disk_usage(plan.language.parent).free >= plan.result_bytes - _allocated(plan) + more

    with contextlib.ExitStack() as stack:
        parts = [
            stack.enter_context(PartFile(path, one, keep=True))
            for path, one in zip(plan.parts, plan.plans, strict=True)
        ]
        write_shard(parts, None, None, threads, on_chunk)
        for shard, path in fetched(source, shards, plan.downloads, room):
            write_shard(parts, shard, path, threads, on_chunk)
            if plan.resumable:
                for part in parts:
                    part.sync()
            journal.shard_done(shard, checkpoint.digests(shard, path))
        pair_id = checkpoint.pair_id({name: digest for one in journal.digests.values() for name, digest in one.items()})
        for part in parts:
            part.finish(pair_id)
    origin = source.origin
    return InstallRecord(
        language=file_record(plan.parts[0], plan.language.name),
        mmproj=file_record(plan.parts[1], mmproj_beside(plan.language).name),
        quant=plan.quant,
        vision_type=plan.vision_type,
        pair_id=pair_id,
        repo=origin.repo if origin else None,
        revision=origin.revision if origin else None,
    )


def install_pair(language: Path, parts: tuple[Path, Path], record: InstallRecord) -> None:
    """Gives two whole files of one folder's disk their names, and writes their record.

    Each step reaches the disk before the next, so that a power cut finds them in this order too. What an earlier,
    killed call has done already is left as it is.
    """
    steps = ((parts[1], mmproj_beside(language)), (parts[0], language))
    if parts[0].exists():
        language.unlink(missing_ok=True)
    try:
        _rename_all(steps, record, language)
    except BaseException:
        # The old pair is gone and the new one is whole: finish, rather than lose both.
        _rename_all(steps, record, language)
        raise


def _rename_all(steps: Sequence[tuple[Path, Path]], record: InstallRecord, language: Path) -> None:
    for part, path in steps:
        sync_folder(language.parent)
        if path == language:
            write_record(language, record)
        if part.exists():
            os.replace(part, path)
    sync_folder(language.parent)


def tidy(language: Path) -> None:
    """Removes what a run has left of itself that was killed after it had installed a pair, and before it ended."""
    left = (work_beside(language), lock_beside(language), part_beside(record_beside(language)))
    if language.exists() and any(path.exists() for path in left):
        with contextlib.suppress(ResourceError), locked(language):
            if is_finished(left[0] / JOURNAL) and not (left[0] / PARTS[0]).exists():
                remove_work(left[0])
            with contextlib.suppress(OSError):
                left[0].rmdir()  # if it is empty: killed between the last two steps of that


def remove_work(folder: Path) -> None:
    """Removes the folder of a finished run; its journal last, by which `tidy` knows what is left of it.

    Where something cannot be removed, the journal stays with it.
    """
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != JOURNAL:
                with contextlib.suppress(OSError):
                    path.unlink()
        if [path.name for path in folder.iterdir()] in ([], [JOURNAL]):
            (folder / JOURNAL).unlink(missing_ok=True)
            folder.rmdir()


def _discard(plan: Plan) -> None:
    for path in plan.parts:
        path.unlink(missing_ok=True)
    part_beside(record_beside(plan.language)).unlink(missing_ok=True)
    if plan.resumable:
        remove_work(plan.work)


@contextlib.contextmanager
def disk_errors(folder: Path, kept: bool = False) -> Iterator[None]:
    """What the system says against writing, as errors of ours. ``kept``: what there is will be gone on with."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise ResourceError(f"cannot write to {folder}: {error.strerror or error}") from error
        go_on = "Free some disk and start it again: it goes on from there"
        raise ResourceError(
            f"no space left in {folder} while writing the model: {error.strerror}",
            go_on if kept else "Free some disk or choose another folder with --out",
        ) from error


def _allocated(plan: Plan) -> int:
    """Bytes of the pair that have their place on the disk already."""
    total = 0
    for path in plan.parts:
        with contextlib.suppress(OSError):
            total += allocated(path)
    return total
