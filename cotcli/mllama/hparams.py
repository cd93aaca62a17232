"""What shapes an mllama model: read from a HF config by convert, kept as GGUF metadata, read back by the runtime.

Knows the GGUF keys of our ``mmproj`` file and nothing of tensors. Field names are transformers' own
(``MllamaVisionConfig``, ``MllamaTextConfig``, ``MllamaImageProcessor``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cotcli.errors import ModelError
from cotcli.image import ImagePreprocessing

ARCHITECTURE = "mllama"
PAIR_ID_KEY = "cotcli.pair_id"  # in both files of a pair: tells whether they come from one checkpoint


@dataclass(frozen=True)
class VisionHParams:
    """The vision tower (transformers ``MllamaVisionConfig``)."""

    hidden_size: int
    intermediate_size: int
    attention_heads: int
    num_hidden_layers: int
    num_global_layers: int
    patch_size: int
    image_size: int
    max_num_tiles: int
    norm_eps: float
    intermediate_states: tuple[int, ...]
    """Which local states join the final one: 0 is the input of local layer 0, i the output of layer i - 1.

    Meta's code and transformers before 4.55, in which the public checkpoints were trained, take the *inputs* of the
    layers in ``intermediate_layers_indices`` (states 3, 7, 15, 23, 30); transformers from 4.56 takes their *outputs*
    (states 4, 8, 16, 24, 31). The file says which, so that the runtime need not guess.
    """
    max_aspect_ratio_id: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.attention_heads

    @property
    def num_patches(self) -> int:
        """Tokens of one tile: its patches and the class token (11B: 1601)."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def num_padded_patches(self) -> int:
        """``num_patches`` rounded up to a multiple of 8 (11B: 1608)."""
        return -(-self.num_patches // 8) * 8

    @property
    def patch_width(self) -> int:
        """Values of one patch: channels * patch_size * patch_size (11B: 588)."""
        return 3 * self.patch_size**2

    @property
    def vision_output_dim(self) -> int:
        """Width of the tower's output: the final state and the intermediate ones (11B: 7680)."""
        return self.hidden_size * (1 + len(self.intermediate_states))


@dataclass(frozen=True)
class TextHParams:
    """The language model (transformers ``MllamaTextConfig``)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    rms_norm_eps: float
    vocab_size: int
    cross_attention_layers: tuple[int, ...]
    image_token_index: int

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def self_attention_layers(self) -> tuple[int, ...]:
        """Checkpoint indices of the layers that go into the language file, in order."""
        return tuple(i for i in range(self.num_hidden_layers) if i not in self.cross_attention_layers)

    def hooked_layer(self, cross_attention_layer: int) -> int:
        """The language file's layer whose output a cross-attention layer takes (11B: 3 -> 2, 8 -> 6, …, 38 -> 30)."""
        return sum(1 for i in self.self_attention_layers if i < cross_attention_layer) - 1


@dataclass(frozen=True)
class HParams:
    """All of one model."""

    vision: VisionHParams
    text: TextHParams
    image: ImagePreprocessing

    def to_gguf(self) -> dict[str, int | float | list[int] | list[float]]:
        """The metadata of the mmproj file. An int is a uint32, a float a float32, a list an array of these."""
        v, t, i = self.vision, self.text, self.image
        return {
            "mllama.vision.embedding_length": v.hidden_size,
            "mllama.vision.feed_forward_length": v.intermediate_size,
            "mllama.vision.attention.head_count": v.attention_heads,
            "mllama.vision.block_count": v.num_hidden_layers,
            "mllama.vision.global_block_count": v.num_global_layers,
            "mllama.vision.patch_size": v.patch_size,
            "mllama.vision.image_size": v.image_size,
            "mllama.vision.max_num_tiles": v.max_num_tiles,
            "mllama.vision.attention.layer_norm_epsilon": float(v.norm_eps),
            "mllama.vision.intermediate_states": list(v.intermediate_states),
            "mllama.vision.max_aspect_ratio_id": v.max_aspect_ratio_id,
            "mllama.embedding_length": t.hidden_size,
            "mllama.feed_forward_length": t.intermediate_size,
            "mllama.block_count": t.num_hidden_layers,
            "mllama.attention.head_count": t.num_attention_heads,
            "mllama.attention.head_count_kv": t.num_key_value_heads,
            "mllama.attention.layer_norm_rms_epsilon": float(t.rms_norm_eps),
            "mllama.vocab_size": t.vocab_size,
            "mllama.cross_attention_layers": list(t.cross_attention_layers),
            "mllama.image_token_index": t.image_token_index,
            "mllama.image.mean": list(i.image_mean),
            "mllama.image.std": list(i.image_std),
            "mllama.image.rescale_factor": float(i.rescale_factor),
            "mllama.image.supported_aspect_ratios": [n for ratio in i.supported_aspect_ratios for n in ratio],
        }

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], path: str) -> HParams:
        """Reads back what ``to_gguf`` wrote; ``path`` names the file in errors.

        Raises:
            ModelError: a key is missing.
        """

        def get(key: str) -> Any:
            try:
                return metadata[f"mllama.{key}"]
            except KeyError:
                raise ModelError(
                    f"{path}: metadata key mllama.{key} is missing", "Convert the checkpoint again: cotcli convert SRC"
                ) from None

        flat: Sequence[int] = get("image.supported_aspect_ratios")
        image_size, max_num_tiles = int(get("vision.image_size")), int(get("vision.max_num_tiles"))
        return cls(
            vision=VisionHParams(
                hidden_size=int(get("vision.embedding_length")),
                intermediate_size=int(get("vision.feed_forward_length")),
                attention_heads=int(get("vision.attention.head_count")),
                num_hidden_layers=int(get("vision.block_count")),
                num_global_layers=int(get("vision.global_block_count")),
                patch_size=int(get("vision.patch_size")),
                image_size=image_size,
                max_num_tiles=max_num_tiles,
                norm_eps=float(get("vision.attention.layer_norm_epsilon")),
                intermediate_states=tuple(int(n) for n in get("vision.intermediate_states")),
                max_aspect_ratio_id=int(get("vision.max_aspect_ratio_id")),
            ),
            text=TextHParams(
                hidden_size=int(get("embedding_length")),
                intermediate_size=int(get("feed_forward_length")),
                num_hidden_layers=int(get("block_count")),
                num_attention_heads=int(get("attention.head_count")),
                num_key_value_heads=int(get("attention.head_count_kv")),
                rms_norm_eps=float(get("attention.layer_norm_rms_epsilon")),
                vocab_size=int(get("vocab_size")),
                cross_attention_layers=tuple(int(n) for n in get("cross_attention_layers")),
                image_token_index=int(get("image_token_index")),
            ),
            image=ImagePreprocessing(
                tile_size=image_size,
                max_num_tiles=max_num_tiles,
                image_mean=tuple(float(x) for x in get("image.mean")),
                image_std=tuple(float(x) for x in get("image.std")),
                rescale_factor=float(get("image.rescale_factor")),
                supported_aspect_ratios=tuple((int(r), int(c)) for r, c in zip(flat[::2], flat[1::2], strict=True)),
            ),
        )
