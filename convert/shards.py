"""Safetensors files, read header first and rows on demand.

Format: 8 bytes (little-endian) with the length of a JSON header, the header, then raw tensor data. Knows nothing of
models. Reads with plain file reads, not a memory map, so that what has been read does not count as our memory.
Not the ``safetensors`` package: without torch it cannot give BF16, and it maps whole files.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cotcli.errors import CheckpointError

ITEM_SIZE = {"F32": 4, "F16": 2, "BF16": 2}
_MAX_HEADER = 100_000_000  # the safetensors package refuses longer ones too


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies. ``begin`` is its first byte in the file."""

    path: Path
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

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Rows ``first`` to ``first + count``: shape (count, width), float32.

        Raises:
            CheckpointError: the file is shorter than its header says, or cannot be read.
        """
        row_bytes = self.width * ITEM_SIZE[self.dtype]
        raw = read_bytes(self.path, self.begin + first * row_bytes, count * row_bytes)
        if self.dtype == "F32":
            values = raw.view("<f4").astype(np.float32, copy=False)
        elif self.dtype == "F16":
            values = raw.view("<f2").astype(np.float32)
        else:
            values = np.left_shift(raw.view("<u2"), 16, dtype=np.uint32).view(np.float32)
        return values.reshape(count, self.width)


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


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one file, by name, in the order of their data.

    Raises:
        CheckpointError: the file is missing, truncated, a Git LFS pointer or not safetensors.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} is missing", "Download the checkpoint again") from error
    if size >= 7 and read_bytes(path, 0, 7).tobytes() == b"version":
        raise CheckpointError(f"{path} is a Git LFS pointer, not the tensors themselves", "Fetch them: git lfs pull")
    if size < 8:
        raise CheckpointError(f"{path} is truncated: it has {size} bytes", "Download the file again")
    length = int.from_bytes(read_bytes(path, 0, 8).tobytes(), "little")
    if length > _MAX_HEADER:
        raise CheckpointError(f"{path} is not a safetensors file", "Download the file again")
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: {8 + length - size} bytes of its header are missing", "Download the file again"
        )
    try:
        header = json.loads(read_bytes(path, 8, length).tobytes())
        header.pop("__metadata__", None)
        stored = [_entry(path, name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} has a broken safetensors header: {error}", "Download the file again") from error
    missing = max((tensor.begin + tensor.nbytes for tensor in stored), default=0) - size
    if missing > 0:
        raise CheckpointError(f"{path} is truncated: {missing} bytes are missing", "Download the file again")
    return {tensor.name: tensor for tensor in sorted(stored, key=lambda tensor: tensor.begin)}


def _entry(path: Path, name: str, entry: dict[str, object], data: int) -> StoredTensor:
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not isinstance(shape, list) or not isinstance(offsets, list):
        raise ValueError(f"{name} is described wrongly")
    begin, end = (int(n) for n in offsets)
    dims = tuple(int(n) for n in shape)
    if begin < 0 or end < begin or any(n < 0 for n in dims):
        raise ValueError(f"{name} has impossible offsets or dimensions")
    if dtype in ITEM_SIZE and end - begin != prod(dims) * ITEM_SIZE[dtype]:
        raise ValueError(f"{name} has {end - begin} bytes for shape {dims} of {dtype}")
    return StoredTensor(path, name, dtype, dims, data + begin, end - begin)
