"""Writes two planned GGUF files so that a language file is never found without the mmproj file of its own conversion.

Each goes to ``<name>.part`` beside its final name. When everything has reached the disk, the former language file is
removed, then the mmproj file is renamed, the language file last. So a run that is killed leaves the former pair whole,
or, within those three steps, no language file: people and the registry go by that. A lock file guards the pair, and
dies with its process; parts whose lock is free are leftovers of a killed run and are removed by the next.
Work is cut into chunks of rows: each is read, converted, quantized and written by one of a few threads, all of which
release the GIL, so memory stays at a few chunks whatever the tensors' sizes. Knows no model.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.plan import ALIGNMENT, FilePlan, PlannedTensor
from cotcli.errors import CheckpointError, ResourceError
from cotcli.native.quantize import quantize

Progress = Callable[[str, int, int], None]
"""Called with the tensor just worked on, the bytes written so far and the bytes in all."""

PART, LOCK = ".part", ".lock"
_CHUNK_VALUES = 1 << 22  # 16 MB as float32
_F16_MAX = 65504.0
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class OutputFile:
    path: Path
    plan: FilePlan


def write_pair(language: OutputFile, mmproj: OutputFile, threads: int, progress: Progress | None = None) -> None:
    """Writes both files into one folder, which must exist.

    Raises:
        ResourceError: not enough disk, or another process is writing this pair.
        CheckpointError: a tensor holds NaN or infinity, or a shard shrank meanwhile.
    """
    folder = language.path.parent
    with _disk_errors(folder), _locked(language.path):
        try:
            _write_locked((mmproj, language), threads, progress)
        finally:
            for file in (mmproj, language):
                _part(file.path).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(language: Path) -> Iterator[None]:
    remove_leftovers(language.parent)
    lock = FileLock(language.with_name(language.name + LOCK))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ResourceError(f"another process is writing {language}", "Wait for it to end") from None
    try:
        yield
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Deletes the parts that killed conversions have left in a folder; those in the works keep their lock."""
    for path in sorted(folder.glob(f"*.gguf{LOCK}")):
        lock = FileLock(path)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            stem = path.name.removesuffix(f".gguf{LOCK}")
            for part in (folder / f"{stem}.gguf{PART}", folder / f"{stem}.mmproj.gguf{PART}"):
                part.unlink(missing_ok=True)
            lock.release()
            path.unlink(missing_ok=True)


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise ResourceError(f"cannot write to {folder}: {error.strerror or error}") from error
        raise ResourceError(
            f"no space left in {folder} while writing the model: {error.strerror}",
            "Free some disk or choose another folder with --out",
        ) from error


def _write_locked(files: tuple[OutputFile, OutputFile], threads: int, progress: Progress | None) -> None:
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(_PartFile(file)) for file in files]
        _check_disk(files[0].path.parent, sum(part.plan.data_bytes for part in parts))
        _write_tensors(parts, threads, progress)
        for part in parts:
            part.finish()
    mmproj, language = files
    language.path.unlink(missing_ok=True)
    try:
        for file in (mmproj, language):
            # Each step reaches the disk before the next, so that a power cut finds them in this order too.
            _sync_folder(file.path.parent)
            os.replace(_part(file.path), file.path)
    except BaseException:
        # The old pair is gone and the new one is whole: finish, rather than lose both.
        for file in (mmproj, language):
            if _part(file.path).exists():
                os.replace(_part(file.path), file.path)
        raise
    _sync_folder(language.path.parent)


class _PartFile:
    """One ``.part`` file, its header written; takes tensor data at any place from any thread."""

    def __init__(self, file: OutputFile) -> None:
        self.plan = file.plan
        path = _part(file.path)
        header = self.plan.header
        try:
            header.write_header_to_file(path)
            header.write_kv_data_to_file()
            header.write_ti_data_to_file()
        finally:
            header.close()
        self._data = -(-path.stat().st_size // ALIGNMENT) * ALIGNMENT
        self._file: BinaryIO = path.open("r+b", buffering=0)
        self._lock = threading.Lock()

    def __enter__(self) -> _PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, offset: int, data: memoryview) -> None:
        with self._lock:
            self._file.seek(self._data + offset)
            while data:
                data = data[self._file.write(data) :]

    def finish(self) -> None:
        """Pads to the planned size and waits until all of it is on the disk."""
        self._file.truncate(self._data + self.plan.data_bytes)
        os.fsync(self._file.fileno())


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResourceError(
            f"{folder} has {_size(free)} free, the model needs {_size(needed)}",
            "Free some disk, choose another folder with --out or a smaller --type",
        )


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True)
class _Chunk:
    part: _PartFile
    tensor: PlannedTensor
    first: int
    count: int

    def run(self) -> None:
        tensor = self.tensor
        values = tensor.read(self.first, self.count)
        _check_values(tensor, values)
        out = quantize(values, tensor.kind)
        self.part.write(tensor.offset + self.first * tensor.row_bytes, out.data.cast("B"))


def _check_values(tensor: PlannedTensor, values: NDArray[np.float32]) -> None:
    # One fast pass is enough for sound values: none can be larger than the root of the sum of squares.
    if np.vdot(values, values) < _F16_MAX**2:
        return
    where = f"{tensor.source.path}: {tensor.source.name}" if tensor.source else tensor.name
    if not np.isfinite(values).all():
        raise CheckpointError(f"{where} holds NaN or infinity", "Download the checkpoint again")
    # Block formats keep their scales in F16.
    if tensor.kind not in (GGMLQuantizationType.F32, GGMLQuantizationType.BF16) and np.abs(values).max() > _F16_MAX:
        raise CheckpointError(
            f"{where} holds values beyond the range of F16", "Choose bf16 or f32 for --type or --vision-type"
        )


def _chunks(parts: list[_PartFile]) -> Iterator[_Chunk]:
    """All work, in the order of the checkpoint's files, so that disks are read forwards."""
    tensors = [(part, tensor) for part in parts for tensor in part.plan.tensors]
    tensors.sort(key=lambda pair: (str(pair[1].source.path), pair[1].source.begin) if pair[1].source else ("", 0))
    for part, tensor in tensors:
        step = max(1, _CHUNK_VALUES // tensor.width)
        if tensor.rope_head_dim:
            step = max(1, step // tensor.rope_head_dim) * tensor.rope_head_dim
        for first in range(0, tensor.rows, step):
            yield _Chunk(part, tensor, first, min(step, tensor.rows - first))


def _write_tensors(parts: list[_PartFile], threads: int, progress: Progress | None) -> None:
    total = sum(tensor.nbytes for part in parts for tensor in part.plan.tensors)
    done = 0
    running: list[tuple[Future[None], _Chunk]] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convert")

    def wait_for_oldest() -> None:
        nonlocal done
        future, chunk = running.pop(0)
        future.result()
        done += chunk.count * chunk.tensor.row_bytes
        if progress is not None:
            progress(chunk.tensor.name, done, total)

    try:
        for chunk in _chunks(parts):
            if len(running) >= 2 * threads:  # one waiting for each at work; only those at work hold memory
                wait_for_oldest()
            running.append((pool.submit(chunk.run), chunk))
        while running:
            wait_for_oldest()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # no folder handles there; NTFS journals renames
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
