"""The tensors of an mmproj file, checked against the table and placed on the devices that use them.

On the CPU they stay where they are in the file (mmap); on any other device they are uploaded. Knows no graphs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cotcli.errors import ModelError
from cotcli.mllama.hparams import ARCHITECTURE, PAIR_ID_KEY, HParams
from cotcli.mllama.tensor_names import Role, mmproj_tensors
from cotcli.native import ggml, ggml_backend
from cotcli.native.gguf_header import TensorHeader

_CPU_ALIGNMENT = 32  # what ggml asks of host pointers; GGUF's default alignment is the same
_SAMPLE = 64  # bytes
WIDENED = 2**18
"""Numbers widened to float32 at once: gguf's conversions take up to three times their room."""


class WeightFile:
    """An open mmproj GGUF.

    Raises:
        ModelError: not a GGUF, not our architecture, cut short, or tensors missing or misshapen.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self.path = path
        again = "Convert the checkpoint again: cotcli convert SRC"
        try:
            reader = gguf.GGUFReader(path)
            metadata: dict[str, Any] = {key: field.contents() for key, field in reader.fields.items()}
            architecture = metadata.get("general.architecture", "unknown")
            if architecture != ARCHITECTURE:
                raise ModelError(f"{path} has architecture {architecture}, expected {ARCHITECTURE}", again)
            self.hparams = HParams.from_gguf(metadata, str(path))
        except ModelError:
            raise
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
        except Exception as error:  # gguf-py reports a damaged file by whatever its parsing trips over
            raise ModelError(f"{path} is not a complete GGUF file ({error})", again) from error
        self.pair_id: str | None = metadata.get(PAIR_ID_KEY)
        self._data: npt.NDArray[np.uint8] = np.memmap(path, np.uint8, "r")
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        for spec in mmproj_tensors(self.hparams):
            tensor = self._tensors.get(spec.gguf_name)
            if tensor is None:
                raise ModelError(f"{path}: tensor {spec.gguf_name} is missing", again)
            shape = tuple(int(n) for n in reversed(tensor.shape))
            if shape != spec.shape:
                raise ModelError(f"{path}: tensor {spec.gguf_name} has shape {shape}, expected {spec.shape}", again)
            if spec.role is Role.VECTOR and int(tensor.tensor_type) != ggml.F32:
                raise ModelError(f"{path}: tensor {spec.gguf_name} is not F32", again)
            if int(tensor.data_offset) + int(tensor.n_bytes) > self._data.size:
                raise ModelError(f"{path} is cut short: tensor {spec.gguf_name} is not whole", again)

    @property
    def is_float32(self) -> bool:
        """Whether the language side is stored in full precision, which then is kept in every step."""
        layer = self.hparams.text.cross_attention_layers[0]
        return int(self._tensors[f"blk.{layer}.cross_attn_q.weight"].tensor_type) == ggml.F32

    @property
    def types_id(self) -> str:
        """16 hex digits that tell the names, types and shapes of all tensors from others; reads none of them."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors.items()):
            digest.update(f"{name} {int(tensor.tensor_type)} {tensor.shape.tolist()}\n".encode())
        return digest.hexdigest()[:16]

    def identity(self, prefixes: tuple[str, ...]) -> str:
        """A hex digest that tells the tensors with these name prefixes from those of any other file.

        Of the pair's id, which stands for the checkpoint, and of each tensor's name, type, shape and first bytes, which
        another quantization changes. Reads a page of each tensor, not gigabytes.
        """
        digest = hashlib.sha256(f"{self.pair_id}\n".encode())
        for name, tensor in sorted(self._tensors.items()):
            if name.startswith(prefixes):
                digest.update(f"{name} {int(tensor.tensor_type)} {tensor.shape.tolist()}\n".encode())
                digest.update(self._bytes(name)[:_SAMPLE].tobytes())
        return digest.hexdigest()

    def array(self, name: str) -> npt.NDArray[np.float32]:
        """A float32 tensor (a norm, gate, bias or position table), shape as in the table; a view of the file."""
        tensor = self._tensors[name]
        start = int(tensor.data_offset)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values: npt.NDArray[np.float32] = self._data[start : start + int(tensor.n_bytes)].view(np.float32)
        return values.reshape(shape)

    def matrix(self, name: str) -> npt.NDArray[np.float32]:
        """A matrix of any type, widened to float32; shape as in the table."""
        import gguf

        tensor = self._tensors[name]
        if int(tensor.tensor_type) == ggml.F32:
            return self.array(name)
        values = np.empty(tuple(int(n) for n in reversed(tensor.shape)), np.float32)
        step = max(1, WIDENED // values.shape[1])
        for start in range(0, len(values), step):
            values[start : start + step] = gguf.dequantize(tensor.data[start : start + step], tensor.tensor_type)
        return values

    def headers(self, names: Iterable[str]) -> list[TensorHeader]:
        """Types and sizes of the named tensors."""
        return [
            TensorHeader(name, int(t.tensor_type), tuple(int(n) for n in t.shape), int(t.n_bytes))
            for name, t in ((name, self._tensors[name]) for name in names)
        ]

    def place(self, names: Iterable[str], backend: ggml_backend.Backend) -> PlacedWeights:
        """Puts the named tensors where ``backend`` computes."""
        return PlacedWeights(self, list(names), backend)

    def _bytes(self, name: str) -> npt.NDArray[np.uint8]:
        tensor = self._tensors[name]
        start = int(tensor.data_offset)
        return self._data[start : start + int(tensor.n_bytes)]


class PlacedWeights:
    """Named tensors on one device; owns what was allocated for them."""

    def __init__(self, file: WeightFile, names: list[str], backend: ggml_backend.Backend) -> None:
        self._arena = ggml.Arena(len(names))
        self._file = file  # keeps the mapping alive as long as tensors point into it
        self._tensors: dict[str, int] = {}
        for name in names:
            tensor = file._tensors[name]
            ne = [int(n) for n in tensor.shape]
            self._tensors[name] = self._arena.tensor(int(tensor.tensor_type), *ne)
        in_place = backend.is_cpu and all(file._bytes(name).ctypes.data % _CPU_ALIGNMENT == 0 for name in names)
        try:
            self._buffer = ggml_backend.host_buffer(file._data) if in_place else backend.allocate(self._arena)
        except BaseException:
            self._arena.close()
            raise
        for name, handle in self._tensors.items():
            if in_place:
                self._buffer.place(handle, file._bytes(name).ctypes.data)
            else:
                ggml_backend.set_data(handle, np.ascontiguousarray(file._bytes(name)))
        self._buffer.mark_weights()

    def __getitem__(self, name: str) -> ggml.Tensor:
        return self._tensors[name]

    def close(self) -> None:
        self._buffer.close()
        self._arena.close()
