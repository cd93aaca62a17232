"""Safetensors files, read header first and rows on demand.

Format: 8 bytes (little-endian) with the length of a JSON header, the header, then raw tensor data. Knows nothing of
models. Reads with plain file reads, not a memory map, so that what has been read does not count as our memory.
Not the ``safetensors`` package: without torch it cannot give BF16, and it maps whole files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from convert.sources import Source
from cotcli.errors import CheckpointError

ITEM_SIZE = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER = 100_000_000  # the safetensors package refuses longer ones too
_FIRST_READ = 100_000  # nearly all headers are shorter, and a second request to a hub takes longer
_SAMPLE = 4096


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies: in which file of the checkpoint, and from which byte of it. ``file`` is for messages."""

    shard: str
    file: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    nbytes: int

    @property
    def rows(self) -> int:
        """The first dimension; a vector is one row."""
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def width(self) -> int:
        """Values of one row: all dimensions after the first, flattened."""
        return prod(self.shape) // self.rows

    def read(self, path: Path, first: int, count: int) -> NDArray[np.float32]:
        """Rows ``first`` to ``first + count`` of the shard at ``path``: shape (count, width), float32.

        Raises:
            CheckpointError: the file is shorter than its header says, or cannot be read.
        """
        row_bytes = self.width * ITEM_SIZE[self.dtype]
        raw = read_bytes(path, self.begin + first * row_bytes, count * row_bytes)
        if self.dtype == "F32":
            values = raw.view("<f4").astype(np.float32, copy=False)
        elif self.dtype == "F16":
            values = raw.view("<f2").astype(np.float32)
        else:
            values = np.left_shift(raw.view("<u2"), 16, dtype=np.uint32).view(np.float32)
        return values.reshape(count, self.width)

    def digest(self, path: Path) -> str:
        """SHA-256 over both ends of the tensor's bytes: cheap, and different for any two trainings."""
        size = min(_SAMPLE, self.nbytes)
        ends = read_bytes(path, self.begin, size), read_bytes(path, self.begin + self.nbytes - size, size)
        return hashlib.sha256(ends[0].tobytes() + ends[1].tobytes()).hexdigest()


def read_bytes(path: Path, offset: int, size: int) -> NDArray[np.uint8]:
    """``size`` bytes from ``offset``: shape (size,), uint8.

    Raises:
        CheckpointError: the file ends before that, or cannot be read.
    """
    buffer = np.empty(size, np.uint8)
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            got = 0
            while got < size:
                count = file.readinto(buffer.data[got:])
                if not count:
                    raise CheckpointError(
                        f"{path} is truncated: {size - got} bytes are missing", "Download the file again"
                    )
                got += count
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    return buffer


def read_header(source: Source, shard: str) -> dict[str, StoredTensor]:
    """The tensors of one file, by name, in the order of their data.

    Raises:
        CheckpointError: the file is missing, truncated, a Git LFS pointer or not safetensors.
    """
    size, file = source.size(shard), f"{source.name}/{shard}"
    head = source.head(shard, _FIRST_READ)
    if head.startswith(b"version"):
        raise CheckpointError(f"{file} is a Git LFS pointer, not the tensors themselves", "Fetch them: git lfs pull")
    if len(head) < 8:
        raise CheckpointError(f"{file} is truncated: it has {size} bytes", "Download the file again")
    length = int.from_bytes(head[:8], "little")
    if length > _MAX_HEADER:
        raise CheckpointError(f"{file} is not a safetensors file", "Download the file again")
    if 8 + length > size:
        raise CheckpointError(
            f"{file} is truncated: {8 + length - size} bytes of its header are missing", "Download the file again"
        )
    if 8 + length > len(head):
        head = source.head(shard, 8 + length)
    try:
        header = json.loads(head[8 : 8 + length])
        header.pop("__metadata__", None)
        stored = [_entry(shard, file, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file} has a broken safetensors header: {error}", "Download the file again") from error
    missing = max((tensor.begin + tensor.nbytes for tensor in stored), default=0) - size
    if missing > 0:
        raise CheckpointError(f"{file} is truncated: {missing} bytes are missing", "Download the file again")
    return {tensor.name: tensor for tensor in sorted(stored, key=lambda tensor: tensor.begin)}


def _entry(shard: str, file: str, name: str, entry: dict[str, object], data: int) -> StoredTensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"{name} is described wrongly")
    begin, end = (int(n) for n in offsets)
    dims = tuple(int(n) for n in shape)
    if begin < 0 or end < begin or any(n < 0 for n in dims):
        raise ValueError(f"{name} has impossible offsets or dimensions")
    if dtype in ITEM_SIZE and end - begin != prod(dims) * ITEM_SIZE[dtype]:
        raise ValueError(f"{name} has {end - begin} bytes for shape {dims} of {dtype}")
    return StoredTensor(shard, file, name, dtype, dims, data + begin, end - begin)
