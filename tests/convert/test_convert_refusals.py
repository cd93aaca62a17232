"""Checkpoints that must not be converted: the error says what is wrong and where, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_checkpoints import TINY, Tensors, edit_json, random_tensors, write_checkpoint
from convert import convert
from cotcli.errors import CheckpointError, UsageError

Spoil = Callable[[Path], None]
TEXT = "language_model.model"


def config(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / "config.json", **changes)


def preprocessor(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / "preprocessor_config.json", **changes)


def tokenizer(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / "tokenizer.json", **changes)


def file(name: str, content: bytes | None) -> Spoil:
    def spoil(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return spoil


def pattern(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\p{N}|\p{L}+"
    path.write_text(json.dumps(content))


def longer_vocabulary(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({"id": 321, "content": "new word", "special": False})
    path.write_text(json.dumps(content))


RATIOS_OF_2 = [[1, 1], [1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (config(model_type="llava"), r"config.json: model_type is 'llava', only 'mllama'"),
        (config(text_config=...), "text_config is missing"),
        (config(text_config__cross_attention_layers=[0, 3]), "layer 0 is a cross-attention layer"),
        (config(text_config__cross_attention_layers=[3, 1]), r"\[3, 1\] do not fit 5 layers"),
        (config(text_config__cross_attention_layers=[1, 5]), r"\[1, 5\] do not fit 5 layers"),
        (config(text_config__cross_attention_layers=[]), "cross_attention_layers is"),
        (config(text_config__num_key_value_heads=3), "4 is no multiple of 3"),
        (config(text_config__num_attention_heads=3), "256 is no multiple of 6"),
        (config(text_config__head_dim=32), "head_dim is 32"),
        (config(text_config__hidden_act="gelu"), "text_config: hidden_act is 'gelu'"),
        (config(text_config__rope_scaling={"rope_type": "yarn"}), "rope_type is 'yarn'"),
        (config(text_config__rope_scaling={"type": "linear"}), "rope_type is 'linear'"),
        (config(text_config__rope_scaling={"rope_type": "llama3"}), "factor is None"),
        (config(text_config__hidden_size="256"), "hidden_size is '256'"),
        (config(text_config__vocab_size=True), "vocab_size is True"),
        (config(image_token_index=328), "image_token_index 328 is outside"),
        (config(vision_config__hidden_act="quick_gelu"), "vision_config: hidden_act is 'quick_gelu'"),
        (config(vision_config__image_size=30), "30 is no multiple of 14"),
        (config(vision_config__attention_heads=5), "64 is no multiple of 5"),
        (config(vision_config__num_channels=1), "num_channels is 1"),
        (config(vision_config__vision_output_dim=64), "vision_output_dim is 64"),
        (config(vision_config__intermediate_layers_indices=[0, 3]), r"\[0, 3\] name no such layers"),
        (config(vision_config__supported_aspect_ratios=RATIOS_OF_2), "not those of max_image_tiles 4"),
        (config(vision_config__supported_aspect_ratios=...), "supported_aspect_ratios is None"),
        (preprocessor(max_image_tiles=2), "max_image_tiles is 2, but config.json has max_num_tiles 4"),
        (preprocessor(size__height=56), "size is 56x28, but config.json has image_size 28"),
        (preprocessor(resample=3), "resample is 3"),
        (preprocessor(do_normalize=False), "do_normalize is False"),
        (preprocessor(image_mean=[0.5, 0.5]), "image_mean is"),
        (preprocessor(image_std=[0.5, 0.5, 0.0]), "image_std has a zero"),
        (file("preprocessor_config.json", None), "preprocessor_config.json is missing"),
        (file("config.json", None), "config.json is missing"),
        (file("config.json", b"{"), "config.json cannot be read"),
        (file("config.json", b"[1]"), "config.json is not a JSON object"),
        (file("tokenizer.json", None), "tokenizer.json is missing"),
        (tokenizer(model__type="Unigram"), "the model is not BPE"),
        (tokenizer(model__ignore_merges=False), "ignore_merges is off"),
        (tokenizer(model__byte_fallback=True), "byte_fallback is set"),
        (tokenizer(model__merges=[]), "no merges"),
        (tokenizer(normalizer={"type": "NFC"}), "there is a normalizer"),
        (tokenizer(pre_tokenizer={"type": "ByteLevel"}), "not Split then ByteLevel"),
        (pattern, "splits by another pattern"),
        (longer_vocabulary, "has 322 tokens, the model's lm_head only 320"),
        (file("tokenizer_config.json", b"{"), "tokenizer's files cannot be read"),
        (file("model.safetensors", None), "neither model.safetensors.index.json nor model.safetensors"),
        (file("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (file("model.safetensors", b"\x07"), "truncated: it has 1 bytes"),
        (file("model.safetensors", b"\x08" + bytes(7) + b"{}"), "truncated: 6 bytes of its header are missing"),
        (file("model.safetensors", b"\xff" * 64), "not a safetensors file"),
        (file("model.safetensors", b"\x02" + bytes(7) + b"{]"), "broken safetensors header"),
        (file("model.safetensors", b"\x02" + bytes(7) + b"{}"), r"lacks .* and \d+ more"),
        (file("model.safetensors.index.json", b'{"weight_map": {"x": "../x"}}'), "no usable weight_map"),
        (
            file("model.safetensors.index.json", b'{"weight_map": {"x": "gone.safetensors"}}'),
            "gone.safetensors is missing",
        ),
        (file("model.safetensors.index.json", b'{"weight_map": {"x": "model.safetensors"}}'), "lacks x, which"),
    ],
)
def test_refused(spoil: Spoil, message: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    spoil(tmp_path / "tiny")
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(tmp_path / "tiny", tmp_path / "out", "f32")
    assert str(tmp_path) in caught.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", [1, 5000, 3_000_000])
def test_truncated_shard_names_file_and_bytes(missing: int, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=2))
    shard = tmp_path / "tiny" / "model-00002-of-00002.safetensors"
    with shard.open("r+b") as handle:
        handle.truncate(shard.stat().st_size - missing)
    with pytest.raises(CheckpointError, match=f"{shard.name} is truncated: {missing} bytes are missing") as caught:
        convert(tmp_path / "tiny", tmp_path / "out")
    assert caught.value.hint == "Download the file again"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("vision_model.class_embedding"), "lacks vision_model.class_embedding"),
        (lambda t: t.pop("language_model.lm_head.weight"), "lacks language_model.lm_head.weight"),
        (lambda t: t.update(extra=np.zeros((1, 1), np.float32)), "mllama does not have: extra"),
        (
            lambda t: t.update({f"{TEXT}.norm.weight": np.ones(255, np.float32)}),
            r"norm.weight has shape \[255\], expected \[256\]",
        ),
        (
            lambda t: t.update({f"{TEXT}.embed_tokens.weight": np.ones((320, 256), np.float32)}),
            r"embed_tokens.weight has shape \[320, 256\], expected \[328, 256\]",
        ),
        (
            lambda t: t.update({"lm_head.weight": t["language_model.lm_head.weight"]}),
            "language_model.lm_head.weight twice, under both naming generations",
        ),
    ],
)
def test_missing_misshapen_and_unknown_tensors(
    change: Callable[[Tensors], object], message: str, tmp_path: Path
) -> None:
    tensors = random_tensors(TINY)
    change(tensors)
    write_checkpoint(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "tiny", tmp_path / "out")


def test_quantized_checkpoints_are_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    shard = tmp_path / "tiny" / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data.replace(b'"F32"', b'"U32"', 1))
    with pytest.raises(CheckpointError, match="is U32; only F32, F16, BF16"):
        convert(tmp_path / "tiny", tmp_path / "out")


def test_old_rotary_buffers_are_skipped(tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors[f"{TEXT}.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(32, np.float32)
    write_checkpoint(tmp_path / "tiny", TINY, tensors)
    assert convert(tmp_path / "tiny", tmp_path / "out").language.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors["multi_modal_projector.weight"][3, 5] = value
    write_checkpoint(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(CheckpointError, match=r"multi_modal_projector\.weight holds NaN or infinity"):
        convert(tmp_path / "tiny", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["vision_model.transformer.layers.0.mlp.fc1", f"{TEXT}.layers.0.mlp.up_proj"])
def test_values_beyond_f16(name: str, tmp_path: Path) -> None:
    tensors = random_tensors(TINY)
    tensors[f"{name}.weight"][0, 0] = 1e5
    write_checkpoint(tmp_path / "tiny", TINY, tensors)
    with pytest.raises(CheckpointError, match="beyond the range of F16"):
        convert(tmp_path / "tiny", tmp_path / "out")
    assert convert(tmp_path / "tiny", tmp_path / "out", "bf16", vision_type="bf16").mmproj.exists()


def test_the_source_must_be_a_folder_and_the_name_a_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        convert(tmp_path / "nowhere", tmp_path)
    write_checkpoint(tmp_path / "tiny", TINY)
    with pytest.raises(UsageError, match="'a/b' cannot be"):
        convert(tmp_path / "tiny", tmp_path, name="a/b")
