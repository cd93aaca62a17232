"""Quantized bytes against llama.cpp's own quantizer, and the types of the mmproj file."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

from benchmarks.small_checkpoints import DEEP, NARROW, TINY, Recipe, write_checkpoint
from convert import QUANTIZATIONS, convert
from convert.quantize import find_quantization, language_type, mmproj_type
from cotcli.errors import UsageError
from cotcli.mllama.hparams import TextHParams
from cotcli.mllama.tensor_names import language_tensors, mmproj_tensors
from cotcli.native import quantize as native

Maker = Callable[[str, Recipe, str], tuple[Path, Path]]


def contents(path: Path) -> dict[str, tuple[str, bytes]]:
    return {tensor.name: (tensor.tensor_type.name, tensor.data.tobytes()) for tensor in GGUFReader(path).tensors}


def quantize_with_llama(source: Path, target: Path, file_type: int) -> None:
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)) == 0


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Folders of converted models, by recipe, each with its F32 language file."""
    folder = tmp_path_factory.mktemp("quantize")
    made: dict[str, Path] = {}

    def make(name: str, recipe: Recipe, base: str) -> tuple[Path, Path]:
        if name not in made:
            write_checkpoint(folder / name, recipe)
            made[name] = convert(folder / name, folder / f"{name}-out", base).language
        return folder / name, made[name]

    return make


SOURCES = {
    "deep": (DEEP, "f32", list(QUANTIZATIONS)),
    "narrow": (NARROW, "f32", list(QUANTIZATIONS)),
    "ungrouped": (replace(TINY, kv_heads=4), "f32", ["q5_k_m", "q4_k_m", "q4_k_s"]),
    "bf16": (replace(TINY, dtype="BF16"), "bf16", ["q8_0", "q4_k_m"]),
    "f16": (replace(TINY, dtype="F16"), "f16", ["q6_k", "q5_k_s"]),
}


@pytest.mark.parametrize(
    ("name", "quantization"), [(name, kind) for name, (_, _, kinds) in SOURCES.items() for kind in kinds]
)
def test_language_file_is_what_llama_cpp_makes(
    name: str, quantization: str, checkpoints: Maker, tmp_path: Path
) -> None:
    recipe, base, _ = SOURCES[name]
    source, language = checkpoints(name, recipe, base)
    ours = contents(convert(source, tmp_path, quantization).language)
    quantize_with_llama(language, tmp_path / "theirs.gguf", int(QUANTIZATIONS[quantization].file_type))
    theirs = contents(tmp_path / "theirs.gguf")
    assert {name: kind for name, (kind, _) in ours.items()} == {name: kind for name, (kind, _) in theirs.items()}
    assert [name for name in theirs if ours[name] != theirs[name]] == []


def test_deep_models_show_the_mixed_recipe(checkpoints: Maker, tmp_path: Path) -> None:
    source, _ = checkpoints("deep", DEEP, "f32")
    kinds = {name: kind for name, (kind, _) in contents(convert(source, tmp_path, "q4_k_m").language).items()}
    assert {kinds[f"blk.{i}.ffn_down.weight"] for i in range(12)} == {"Q4_K", "Q6_K"}
    assert kinds["output.weight"] == "Q6_K" and kinds["token_embd.weight"] == "Q4_K"


LLAVA_COT = TextHParams(4096, 14336, 40, 32, 8, 1e-5, 128256, (3, 8, 13, 18, 23, 28, 33, 38), 128256)


def test_types_of_the_90b_text_layers() -> None:
    text = replace(LLAVA_COT, num_hidden_layers=100, cross_attention_layers=tuple(range(3, 100, 5)))
    specs = {spec.gguf_name: spec for spec in language_tensors(text)}
    kind = [language_type(specs[f"blk.{i}.attn_v.weight"], find_quantization("q4_k_m"), text) for i in (9, 10, 11, 12)]
    assert kind == [Type.Q6_K, Type.Q5_K, Type.Q5_K, Type.Q6_K]  # llama.cpp's rule for 80 layers with grouped heads


def mmproj_types(recipe: Recipe, quantization: str, vision: Type) -> dict[str, Type]:
    hparams = recipe.hparams
    chosen = find_quantization(quantization)
    return {spec.gguf_name: mmproj_type(spec, chosen, vision, hparams.text) for spec in mmproj_tensors(hparams)}


def test_mmproj_types_of_q4_k_m() -> None:
    kinds = mmproj_types(TINY, "q4_k_m", Type.F16)
    assert kinds["blk.1.cross_attn_q.weight"] == kinds["blk.1.ffn_up.weight"] == Type.Q4_K
    assert kinds["blk.1.cross_attn_output.weight"] == kinds["blk.3.cross_attn_output.weight"] == Type.Q6_K
    assert kinds["mm.0.weight"] == kinds["v.blk.0.attn_q.weight"] == kinds["v.patch_embd.weight"] == Type.F16
    for name, kind in kinds.items():
        if any(part in name for part in ("norm", "ln", "bias", "gate_", "position", "tile", "class")):
            assert kind == Type.F32 or "ffn_gate.weight" in name, name


@pytest.mark.parametrize(
    ("quantization", "output", "other"),
    [
        ("q4_k_s", Type.Q6_K, Type.Q4_K),
        ("q5_k_m", Type.Q6_K, Type.Q5_K),
        ("q6_k", Type.Q8_0, Type.Q6_K),
        ("q8_0", Type.Q8_0, Type.Q8_0),
        ("bf16", Type.BF16, Type.BF16),
        ("f32", Type.F32, Type.F32),
    ],
)
def test_cross_attention_output_gets_more_bits(quantization: str, output: Type, other: Type) -> None:
    kinds = mmproj_types(TINY, quantization, Type.F16)
    assert kinds["blk.3.cross_attn_output.weight"] == output
    assert kinds["blk.3.cross_attn_q.weight"] == other


def test_rows_narrower_than_a_block_stay_16_bit() -> None:
    kinds = mmproj_types(TINY, "q8_0", Type.Q8_0)
    assert kinds["v.patch_embd.weight"] == Type.F16  # 588 values
    assert kinds["v.blk.0.ffn_up.weight"] == Type.Q8_0
    assert mmproj_types(TINY, "q8_0", Type.F32)["v.patch_embd.weight"] == Type.F32


@pytest.mark.parametrize(
    ("language", "vision", "kind"), [("f32", None, "F32"), ("q8_0", None, "F16"), ("f16", "bf16", "BF16")]
)
def test_vision_type(language: str, vision: str | None, kind: str, checkpoints: Maker, tmp_path: Path) -> None:
    source, _ = checkpoints("deep", DEEP, "f32")
    result = convert(source, tmp_path, language, vision)
    assert result.vision_type == kind
    assert contents(result.mmproj)["v.blk.0.attn_q.weight"][0] == kind


def test_quantized_cross_attention_is_near_the_checkpoint(tmp_path: Path) -> None:
    values = write_checkpoint(tmp_path / "tiny", TINY)
    reader = GGUFReader(convert(tmp_path / "tiny", tmp_path, "q4_k_m").mmproj)
    found = {tensor.name: tensor for tensor in reader.tensors}
    for ours, theirs, limit in (("cross_attn_q", "q_proj", 0.1), ("cross_attn_output", "o_proj", 0.03)):
        tensor = found[f"blk.3.{ours}.weight"]
        exact = values[f"language_model.model.layers.3.cross_attn.{theirs}.weight"]
        error = np.linalg.norm(gguf.quants.dequantize(tensor.data, tensor.tensor_type) - exact) / np.linalg.norm(exact)
        assert 0.001 < error < limit


def test_unknown_types_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown type 'q3_k'"):
        convert(tmp_path, tmp_path, "q3_k")
    with pytest.raises(UsageError, match="unknown vision type 'q4_0'"):
        convert(tmp_path, tmp_path, "q4_k_m", "q4_0")


def test_native_quantize_checks_its_input() -> None:
    with pytest.raises(ValueError, match="multiple of 256"):
        native.quantize(np.zeros((2, 255), np.float32), Type.Q4_K)
    values = np.random.default_rng(0).standard_normal((3, 64), dtype=np.float32)
    expected = gguf.quants.quantize(values, Type.Q8_0)
    np.testing.assert_array_equal(native.quantize(values, Type.Q8_0), expected)
    strided = np.repeat(values, 2, axis=1)[:, ::2]
    np.testing.assert_array_equal(native.quantize(strided, Type.Q8_0), expected)
