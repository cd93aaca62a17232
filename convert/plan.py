"""What one GGUF file will hold, decided before a byte of it is written: metadata, and a place for every tensor.

Knows sizes and offsets, so that disk space can be checked exactly and tensors written in any order. Knows no recipe.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.gguf_writer import WriterState
from numpy.typing import NDArray

from convert.shards import StoredTensor
from cotcli.mllama.hparams import PAIR_ID_KEY
from cotcli.mllama.tensor_names import TensorSpec
from cotcli.native.quantize import row_size

ALIGNMENT = 32  # GGUF's default
_NO_ID = "0" * 64  # as long as a SHA-256 in hexadecimal


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the file: ``rows`` x ``width`` values of ``kind``, at ``offset`` from the start of the data.

    Its values are rows ``first_row``… of ``source``. With ``rope_head_dim`` the rows of each head of that many are
    put into ggml's interleaved order; ``constant`` replaces ``source`` for values that are computed, float32.
    """

    name: str
    shape: tuple[int, ...]
    kind: GGMLQuantizationType
    offset: int
    source: StoredTensor | None
    first_row: int = 0
    rope_head_dim: int | None = None
    constant: NDArray[np.float32] | None = None

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    @property
    def width(self) -> int:
        return prod(self.shape) // self.rows

    @property
    def row_bytes(self) -> int:
        return row_size(self.kind, self.width)

    @property
    def nbytes(self) -> int:
        return self.rows * self.row_bytes

    def read(self, path: Path | None, first: int, count: int) -> NDArray[np.float32]:
        """Rows ``first`` to ``first + count`` in the file's order: shape (count, width), float32.

        With ``rope_head_dim`` both must be multiples of it. ``path`` is the source's shard; None for a constant.
        """
        if self.source is None or path is None:
            assert self.constant is not None
            return self.constant.reshape(self.rows, self.width)[first : first + count]
        values = self.source.read(path, self.first_row + first, count)
        return interleave_rotary_pairs(values, self.rope_head_dim) if self.rope_head_dim else values


class FilePlan:
    """One GGUF file in the making.

    ``header`` is gguf's writer, filled with metadata and tensor infos; it writes the front of the file, we the data.
    The pair id is known only when all shards have been read, so its place is kept for it.
    """

    def __init__(self, architecture: str) -> None:
        self.header = GGUFWriter(None, architecture)
        self.header.add_string(PAIR_ID_KEY, _NO_ID)
        self.tensors: list[PlannedTensor] = []
        self.data_bytes = 0

    @cached_property
    def front(self) -> bytes:
        """All that comes before the data, padded to where that begins. To be read when nothing is added any more."""
        buffer = BytesIO()
        # The writer opens files by name; it takes one that is open already if it finds itself in this state.
        self.header.fout, self.header.state = [buffer], WriterState.EMPTY
        self.header.write_header_to_file()
        self.header.write_kv_data_to_file()
        self.header.write_ti_data_to_file()
        front = buffer.getvalue()
        return front + bytes(-len(front) % ALIGNMENT)

    @cached_property
    def pair_id_offset(self) -> int:
        """Where in ``front`` the 64 digits of the pair id go."""
        field = PAIR_ID_KEY.encode() + struct.pack("<IQ", GGUFValueType.STRING, len(_NO_ID)) + _NO_ID.encode()
        assert self.front.count(field) == 1
        return self.front.index(field) + len(field) - len(_NO_ID)

    def is_front(self, data: bytes) -> bool:
        """Whether that is ``front``, with any pair id or none yet."""
        begin, end = self.pair_id_offset, self.pair_id_offset + len(_NO_ID)
        return data[:begin] == self.front[:begin] and data[end:] == self.front[end:]

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return len(self.front) + self.data_bytes

    def metadata(self, values: dict[str, Any]) -> None:
        """A str, bool, int (uint32) or float (float32), or a list of the last two."""
        for key, value in values.items():
            if isinstance(value, list):
                self.header.add_key_value(key, value, GGUFValueType.ARRAY, sub_type=_value_type(value[0]))
            elif isinstance(value, str) and not value:
                continue
            else:
                self.header.add_key_value(key, value, _value_type(value))

    def add(
        self,
        spec: TensorSpec,
        kind: GGMLQuantizationType,
        source: StoredTensor,
        rope_head_dim: int | None = None,
    ) -> None:
        """A tensor of the shared table, after those added before."""
        self._place(
            PlannedTensor(spec.gguf_name, spec.shape, kind, self.data_bytes, source, spec.row or 0, rope_head_dim)
        )

    def add_constant(self, name: str, values: NDArray[np.float32]) -> None:
        """Computed values, kept in F32."""
        self._place(PlannedTensor(name, values.shape, GGMLQuantizationType.F32, self.data_bytes, None, constant=values))

    def _place(self, tensor: PlannedTensor) -> None:
        self.header.add_tensor_info(
            tensor.name, tensor.shape, np.dtype(np.float32), tensor.nbytes, raw_dtype=tensor.kind
        )
        self.tensors.append(tensor)
        self.data_bytes += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT


def interleave_rotary_pairs(values: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """HF's rotary pairs are rows i and i + head_dim / 2 of a head, ggml's are rows 2i and 2i + 1.

    Args:
        values: shape (heads * head_dim, width).

    Returns:
        the same rows in ggml's order.
    """
    rows, width = values.shape
    pairs: NDArray[np.float32] = values.reshape(rows // head_dim, 2, head_dim // 2, width).swapaxes(1, 2)
    return pairs.reshape(rows, width)


def _value_type(value: Any) -> GGUFValueType:
    return {
        str: GGUFValueType.STRING,
        bool: GGUFValueType.BOOL,
        int: GGUFValueType.UINT32,
        float: GGUFValueType.FLOAT32,
    }[type(value)]
