"""Tensors of a plan -> bytes of a file in the making, by chunks of rows and a few threads.

Each chunk is read, converted, quantized and written by one thread; all of that releases the GIL, so memory stays at a
few chunks whatever the tensors' sizes. Knows no model, and not where shards come from.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from convert.plan import FilePlan, PlannedTensor
from cotcli.errors import CheckpointError
from cotcli.native.quantize import quantize

_CHUNK_VALUES = 1 << 22  # 16 MB as float32
_F16_MAX = 65504.0


class PartFile:
    """A file in the making; takes tensor data at any place from any thread.

    Args:
        keep: go on with the file that is there, which must begin as the plan says; else it starts anew.
    """

    def __init__(self, path: Path, plan: FilePlan, keep: bool) -> None:
        self.path, self.plan = path, plan
        self._file = path.open("r+b" if keep else "w+b", buffering=0)
        self._lock = threading.Lock()
        if not keep:
            self._write_at(0, memoryview(plan.front))

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, offset: int, data: memoryview) -> None:
        """``offset`` counts from the start of the tensor data."""
        self._write_at(len(self.plan.front) + offset, data)

    def sync(self) -> None:
        """Waits until all that has been written is on the disk."""
        os.fsync(self._file.fileno())

    def finish(self, pair_id: str) -> None:
        """Puts in the pair id, pads to the planned size and waits until all of it is on the disk."""
        self._write_at(self.plan.pair_id_offset, memoryview(pair_id.encode()))
        self._file.truncate(self.plan.file_bytes)
        self.sync()

    def _write_at(self, offset: int, data: memoryview) -> None:
        with self._lock:
            self._file.seek(offset)
            while data:
                data = data[self._file.write(data) :]


def begins_as_planned(path: Path, plan: FilePlan) -> bool:
    """Whether a file in the making belongs to this plan."""
    try:
        with path.open("rb") as file:
            return plan.is_front(file.read(len(plan.front)))
    except OSError:
        return False


@dataclass(frozen=True)
class _Chunk:
    part: PartFile
    tensor: PlannedTensor
    path: Path | None
    first: int
    count: int

    def run(self) -> None:
        tensor = self.tensor
        values = tensor.read(self.path, self.first, self.count)
        _check_values(tensor, values)
        out = quantize(values, tensor.kind)
        self.part.write(tensor.offset + self.first * tensor.row_bytes, out.data.cast("B"))


def _check_values(tensor: PlannedTensor, values: NDArray[np.float32]) -> None:
    # One fast pass is enough for sound values: none can be larger than the root of the sum of squares.
    if np.vdot(values, values) < _F16_MAX**2:
        return
    where = f"{tensor.source.file}: {tensor.source.name}" if tensor.source else tensor.name
    if not np.isfinite(values).all():
        raise CheckpointError(f"{where} holds NaN or infinity", "Download the checkpoint again")
    # Block formats keep their scales in F16.
    if tensor.kind not in (GGMLQuantizationType.F32, GGMLQuantizationType.BF16) and np.abs(values).max() > _F16_MAX:
        raise CheckpointError(
            f"{where} holds values beyond the range of F16", "Choose bf16 or f32 for --type or --vision-type"
        )


def _chunks(parts: Sequence[PartFile], shard: str | None, path: Path | None) -> Iterator[_Chunk]:
    """The work on one shard, in the order of its bytes, so that disks are read forwards."""
    tensors = [
        (part, tensor)
        for part in parts
        for tensor in part.plan.tensors
        if (tensor.source.shard if tensor.source else None) == shard
    ]
    tensors.sort(key=lambda pair: pair[1].source.begin if pair[1].source else 0)
    for part, tensor in tensors:
        step = max(1, _CHUNK_VALUES // tensor.width)
        if tensor.rope_head_dim:
            step = max(1, step // tensor.rope_head_dim) * tensor.rope_head_dim
        for first in range(0, tensor.rows, step):
            yield _Chunk(part, tensor, path, first, min(step, tensor.rows - first))


def shard_bytes(plans: Sequence[FilePlan], shard: str | None) -> int:
    """How many bytes of the files come from a shard; None is what is computed."""
    return sum(
        tensor.nbytes
        for plan in plans
        for tensor in plan.tensors
        if (tensor.source.shard if tensor.source else None) == shard
    )


def write_shard(
    parts: Sequence[PartFile],
    shard: str | None,
    path: Path | None,
    threads: int,
    on_chunk: Callable[[str, int], None],
) -> None:
    """Writes all tensors that come from one shard, whose file is at ``path``; None is those that are computed.

    ``on_chunk`` is called in this thread with the tensor just worked on and the bytes that have been written of it.

    Raises:
        CheckpointError: a tensor holds NaN or infinity, or the shard shrank meanwhile.
    """
    running: list[tuple[Future[None], _Chunk]] = []
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convert")

    def wait_for_oldest() -> None:
        future, chunk = running.pop(0)
        future.result()
        on_chunk(chunk.tensor.name, chunk.count * chunk.tensor.row_bytes)

    try:
        for chunk in _chunks(parts, shard, path):
            if len(running) >= 2 * threads:  # one waiting for each at work; only those at work hold memory
                wait_for_oldest()
            running.append((pool.submit(chunk.run), chunk))
        while running:
            wait_for_oldest()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
