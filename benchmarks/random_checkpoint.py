"""Writes a random mllama checkpoint of the true 11B shapes, shard by shard, in BF16.

    python -m benchmarks.random_checkpoint OUT            # 21.3 GB, the shapes of LLaVA-CoT
    python -m benchmarks.random_checkpoint OUT --layers 5 --vision-layers 4 --global-layers 2

Whoever wants the pair of GGUF files alone spares the detour: ``benchmarks.random_pair``.

Shapes and names come from the table that convert and the runtime share. Values are normal with a standard deviation of
0.02, gates are far from zero so that every layer counts, and norms are near one, so activations stay finite. The
values of a tensor depend on the seed and its name alone. Memory stays below 300 MB. The tokenizer is the true one:
see ``benchmarks.llama3_tokenizer`` for what it needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.config_files import GATES, RATIOS, preprocessor_config, vision_config
from benchmarks.llama3_tokenizer import write_tokenizer
from convert.sources import Origin
from cotcli.image import ImagePreprocessing
from cotcli.mllama.hparams import HParams, TextHParams, VisionHParams
from cotcli.mllama.tensor_names import language_tensors, mmproj_tensors

SHARD_BYTES = 5_000_000_000
CHUNK = 1 << 24  # values drawn at a time
INTERMEDIATE_LAYERS = (3, 7, 15, 23, 30)
LLAVA_COT = HParams(
    vision=VisionHParams(
        hidden_size=1280,
        intermediate_size=5120,
        attention_heads=16,
        num_hidden_layers=32,
        num_global_layers=8,
        patch_size=14,
        image_size=560,
        max_num_tiles=4,
        norm_eps=1e-5,
        intermediate_states=INTERMEDIATE_LAYERS,
        max_aspect_ratio_id=8,
    ),
    text=TextHParams(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=40,
        num_attention_heads=32,
        num_key_value_heads=8,
        rms_norm_eps=1e-5,
        vocab_size=128256,
        cross_attention_layers=(3, 8, 13, 18, 23, 28, 33, 38),
        image_token_index=128256,
    ),
    image=ImagePreprocessing(
        tile_size=560,
        max_num_tiles=4,
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        rescale_factor=1 / 255,
        supported_aspect_ratios=RATIOS,
    ),
)


@dataclass(frozen=True)
class RandomTensor:
    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return 2 * prod(self.shape)


def shrink(hparams: HParams, layers: int, vision_layers: int, global_layers: int) -> HParams:
    """The same widths with fewer layers; intermediate states are spread over what is left."""
    text, vision = hparams.text, hparams.vision
    states = tuple(i * vision_layers // vision.num_hidden_layers for i in vision.intermediate_states)
    return HParams(
        replace(vision, num_hidden_layers=vision_layers, num_global_layers=global_layers, intermediate_states=states),
        replace(
            text,
            num_hidden_layers=layers,
            cross_attention_layers=tuple(i for i in text.cross_attention_layers if i < layers),
        ),
        hparams.image,
    )


def tensors(hparams: HParams) -> list[RandomTensor]:
    """Every tensor of the checkpoint once, vision first as in the released shards."""
    seen: dict[str, tuple[int, ...]] = {}
    for spec in (*mmproj_tensors(hparams), *language_tensors(hparams.text)):
        seen.setdefault(spec.hf_name, spec.hf_shape)
    return [RandomTensor(name, shape) for name, shape in sorted(seen.items(), key=lambda item: item[0], reverse=True)]


def values(tensor: RandomTensor, seed: int) -> Iterator[NDArray[np.uint16]]:
    """The tensor's values as BF16 bits, at most CHUNK at a time."""
    digest = hashlib.sha256(f"{seed} {tensor.name}".encode()).digest()
    rng = np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "little")))
    mean, std = 0.0, 0.02
    if tensor.name.rpartition(".")[2] in GATES:
        mean, std = 0.5, 0.1
    elif "norm" in tensor.name and tensor.name.endswith("weight"):
        mean, std = 1.0, 0.05
    left = prod(tensor.shape)
    while left:
        x = rng.standard_normal(min(left, CHUNK), dtype=np.float32)
        left -= x.size
        x *= np.float32(std)
        x += np.float32(mean)
        bits = x.view(np.uint32)
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))  # round to nearest, ties to even
        yield (bits >> np.uint32(16)).astype(np.uint16)


@dataclass(frozen=True)
class RandomShards:
    """A checkpoint that comes into being as it is read: a ``convert.sources.Source``."""

    folder: Path
    shards: dict[str, list[RandomTensor]]
    seed: int
    origin: Origin | None = None

    @property
    def name(self) -> str:
        return str(self.folder)

    def size(self, shard: str) -> int:
        return len(self._header(shard)) + sum(tensor.nbytes for tensor in self.shards[shard])

    def head(self, shard: str, count: int) -> bytes:
        """As ``Source.head``; convert asks for headers alone."""
        return self._header(shard)[:count]

    def missing(self, shard: str, into: Path) -> int:
        return self.size(shard) - self.takes(shard, into)

    def takes(self, shard: str, into: Path) -> int:
        return (into / shard).stat().st_size if (into / shard).exists() else 0

    def fetch(self, shard: str, into: Path) -> Path:
        """Writes the shard."""
        into.mkdir(parents=True, exist_ok=True)
        with (into / shard).open("wb") as file:
            file.write(self._header(shard))
            for tensor in self.shards[shard]:
                for chunk in values(tensor, self.seed):
                    file.write(chunk.tobytes())
        return into / shard

    def release(self, shard: str, into: Path) -> None:
        (into / shard).unlink(missing_ok=True)

    def cancel(self) -> None:
        """Nothing here waits for anybody."""

    def _header(self, shard: str) -> bytes:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offset = 0
        for tensor in self.shards[shard]:
            header[tensor.name] = {
                "dtype": "BF16",
                "shape": list(tensor.shape),
                "data_offsets": [offset, offset + tensor.nbytes],
            }
            offset += tensor.nbytes
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def random_shards(folder: Path, hparams: HParams, seed: int, shard_bytes: int) -> RandomShards:
    """The checkpoint, of which ``folder`` gets the small files: settings, tokenizer, index."""
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(folder, hparams)
    write_tokenizer(folder)
    plans = _split(tensors(hparams), shard_bytes)
    shards = {f"model-{number:05d}-of-{len(plans):05d}.safetensors": plan for number, plan in enumerate(plans, 1)}
    index = {
        "metadata": {"total_size": sum(tensor.nbytes for plan in plans for tensor in plan)},
        "weight_map": {tensor.name: name for name, plan in shards.items() for tensor in plan},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return RandomShards(folder, shards, seed)


def _split(plan: list[RandomTensor], limit: int) -> list[list[RandomTensor]]:
    shards: list[list[RandomTensor]] = [[]]
    size = 0
    for tensor in plan:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    return shards


def write_configs(folder: Path, hparams: HParams) -> None:
    """config.json, preprocessor_config.json and generation_config.json in the words of Meta's release (4.45)."""
    text = hparams.text
    config = {
        "architectures": ["MllamaForConditionalGeneration"],
        "image_token_index": text.image_token_index,
        "model_type": "mllama",
        "text_config": {
            "model_type": "mllama_text_model",
            "bos_token_id": 128000,
            "cross_attention_layers": list(text.cross_attention_layers),
            "eos_token_id": [128001, 128008, 128009],
            "hidden_act": "silu",
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "max_position_embeddings": 131072,
            "num_attention_heads": text.num_attention_heads,
            "num_hidden_layers": text.num_hidden_layers,
            "num_key_value_heads": text.num_key_value_heads,
            "pad_token_id": 128004,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "vocab_size": text.vocab_size,
        },
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "vision_config": vision_config(hparams),
    }
    generation = {
        "bos_token_id": 128000,
        "do_sample": True,
        "eos_token_id": [128001, 128008, 128009],
        "pad_token_id": 128004,
        "temperature": 0.6,
        "top_p": 0.9,
        "transformers_version": "4.45.0",
    }
    for name, content in (
        ("config.json", config),
        ("preprocessor_config.json", preprocessor_config(hparams.image)),
        ("generation_config.json", generation),
    ):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def write_checkpoint(folder: Path, hparams: HParams, seed: int = 0) -> int:
    """Writes the whole folder; gives the bytes of tensor data."""
    source = random_shards(folder, hparams, seed, SHARD_BYTES)
    for shard in source.shards:
        source.fetch(shard, folder)
    return sum(tensor.nbytes for plan in source.shards.values() for tensor in plan)


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """--layers and their like; ``given_shapes`` reads them."""
    parser.add_argument("--layers", type=int, default=40, help="text layers, cross-attention among them")
    parser.add_argument("--vision-layers", type=int, default=32)
    parser.add_argument("--global-layers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)


def given_shapes(options: argparse.Namespace) -> HParams:
    return shrink(LLAVA_COT, options.layers, options.vision_layers, options.global_layers)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random mllama checkpoint of the true 11B shapes.")
    parser.add_argument("out", type=Path, help="folder to write, made if needed")
    add_shape_arguments(parser)
    options = parser.parse_args()
    start = time.perf_counter()
    total = write_checkpoint(options.out, given_shapes(options), options.seed)
    print(f"{options.out}: {total / 1e9:.2f} GB in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
