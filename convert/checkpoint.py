"""A HF checkpoint, checked as a whole by its headers before anything is written or a shard is fetched.

Knows both naming generations, shards and tied embeddings; after ``open_checkpoint`` every tensor of the shared table is
there with the right shape and a type we can read. Knows nothing of GGUF beyond that table.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from convert.config import CheckpointConfig, IntermediateStates, read_config, read_json
from convert.shards import ITEM_SIZE, StoredTensor, read_header
from convert.sources import Source
from cotcli.errors import CheckpointError
from cotcli.mllama.tensor_names import TEXT, language_tensors, mmproj_tensors

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_LM_HEAD, _EMBEDDING = "language_model.lm_head.weight", f"{TEXT}.embed_tokens.weight"
# Second generation (transformers from 4.52 may save it) -> first, the longest prefix first.
_SECOND_GENERATION = (
    ("model.language_model.", f"{TEXT}."),
    ("model.vision_model.", "vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint: its settings, and its tensors under their first-generation names."""

    source: Source
    config: CheckpointConfig
    tensors: dict[str, StoredTensor]

    @property
    def shards(self) -> list[str]:
        """Its safetensors files, in the order of their names."""
        return sorted({tensor.shard for tensor in self.tensors.values()})

    def digests(self, shard: str, path: Path) -> dict[str, str]:
        """What ``pair_id`` needs of one shard's tensors, from the shard at ``path``."""
        return {name: tensor.digest(path) for name, tensor in self.tensors.items() if tensor.shard == shard}

    def pair_id(self, digests: Mapping[str, str]) -> str:
        """SHA-256 over config.json and the tensors' names, types, shapes and ``digests``: 64 hexadecimal digits."""
        config = json.dumps(read_json(self.source.folder / "config.json"), sort_keys=True)
        digest = hashlib.sha256(config.encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"\n{name} {tensor.dtype} {tensor.shape} {digests[name]}".encode())
        return digest.hexdigest()


def open_checkpoint(source: Source, intermediate_states: IntermediateStates = "auto") -> Checkpoint:
    """Reads the settings and every file's header, and checks them against the table of tensors.

    Raises:
        CheckpointError: anything that would make the result wrong; see ``convert.config`` and ``convert.shards``.
    """
    config = read_config(source.folder, intermediate_states)
    tensors = _first_generation(_stored_tensors(source))
    if _LM_HEAD not in tensors and _EMBEDDING in tensors and config.tied_embeddings:
        rows = min(config.hparams.text.vocab_size, tensors[_EMBEDDING].rows)
        tied = tensors[_EMBEDDING]
        tensors[_LM_HEAD] = replace(tied, shape=(rows, tied.width), nbytes=tied.nbytes // tied.rows * rows)
    _check(source, config, tensors)
    return Checkpoint(source, config, tensors)


def _stored_tensors(source: Source) -> dict[str, StoredTensor]:
    index = source.folder / _INDEX
    if not index.exists():
        try:
            source.size(_SINGLE)
        except CheckpointError:
            raise CheckpointError(
                f"{source.name} has neither {_INDEX} nor {_SINGLE}",
                "Only checkpoints in safetensors files can be converted",
            ) from None
        return read_header(source, _SINGLE)
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in weight_map.values()
    ):
        raise CheckpointError(f"{index} has no usable weight_map", "Download the file again")
    headers = {file: read_header(source, file) for file in sorted(set(weight_map.values()))}
    tensors = {}
    for name, file in weight_map.items():
        if name not in headers[file]:
            raise CheckpointError(
                f"{source.name}/{file} lacks {name}, which {_INDEX} places there", "Download the checkpoint again"
            )
        tensors[name] = headers[file][name]
    return tensors


def _first_generation(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        if name.endswith("rotary_emb.inv_freq"):
            continue  # a buffer that old trainers saved; it follows from the config
        first = next((ours + name.removeprefix(new) for new, ours in _SECOND_GENERATION if name.startswith(new)), name)
        if first in tensors:
            raise CheckpointError(f"{tensor.file} holds {first} twice, under both naming generations")
        tensors[first] = tensor
    return tensors


def _check(source: Source, config: CheckpointConfig, tensors: dict[str, StoredTensor]) -> None:
    wanted = {
        spec.hf_name: spec.hf_shape
        for spec in (*language_tensors(config.hparams.text), *mmproj_tensors(config.hparams))
    }
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise CheckpointError(
            f"{source.name} lacks {_some(missing)}", "Download it again, or merge the adapter into its base model"
        )
    unknown = [name for name in tensors if name not in wanted]
    if unknown:
        raise CheckpointError(f"{source.name} holds tensors that mllama does not have: {_some(unknown)}")
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(f"{tensor.file}: {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        if tensor.dtype not in ITEM_SIZE:
            raise CheckpointError(
                f"{tensor.file}: {name} is {tensor.dtype}; only {', '.join(ITEM_SIZE)} can be converted",
                "Convert from the checkpoint before it was quantized",
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
