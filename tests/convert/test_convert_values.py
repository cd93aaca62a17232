"""What stands in the two files, against the values that stand in the checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from gguf import GGUFReader
from numpy.typing import NDArray

from benchmarks.small_checkpoints import TINY, Recipe, Tensors, edit_json, write_checkpoint
from convert import ConvertedPair, IntermediateStates, convert
from cotcli.mllama.hparams import PAIR_ID_KEY, HParams

TEXT = "language_model.model"


class Converted(NamedTuple):
    values: Tensors
    language: dict[str, NDArray[Any]]
    mmproj: dict[str, NDArray[Any]]
    files: ConvertedPair


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """By name, in NumPy's order of dimensions."""
    return {
        tensor.name: np.array(tensor.data).reshape([int(n) for n in reversed(tensor.shape)])
        for tensor in GGUFReader(path).tensors
    }


def read_metadata(path: Path) -> dict[str, object]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


def interleave(values: NDArray[Any], head_dim: int) -> NDArray[Any]:
    """HF keeps the halves of a rotary pair head_dim / 2 rows apart, ggml side by side; row by row, on purpose."""
    out = np.empty_like(values)
    for head in range(0, len(values), head_dim):
        for pair in range(head_dim // 2):
            out[head + 2 * pair] = values[head + pair]
            out[head + 2 * pair + 1] = values[head + head_dim // 2 + pair]
    return out


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("values")
    values = write_checkpoint(folder / "tiny", TINY)
    result = convert(folder / "tiny", folder / "out", "f32")
    return Converted(values, read_tensors(result.language), read_tensors(result.mmproj), result)


def test_the_language_file_holds_the_self_attention_layers(pair: Converted) -> None:
    values, language, _, _ = pair
    for new, old in enumerate((0, 2, 4)):
        hf = f"{TEXT}.layers.{old}"
        for ours, theirs in {
            "attn_norm": "input_layernorm",
            "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj",
            "ffn_norm": "post_attention_layernorm",
            "ffn_gate": "mlp.gate_proj",
            "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj",
        }.items():
            np.testing.assert_array_equal(language[f"blk.{new}.{ours}.weight"], values[f"{hf}.{theirs}.weight"])
        for ours, theirs in {"attn_q": "q_proj", "attn_k": "k_proj"}.items():
            expected = interleave(values[f"{hf}.self_attn.{theirs}.weight"], head_dim=64)
            np.testing.assert_array_equal(language[f"blk.{new}.{ours}.weight"], expected)
    np.testing.assert_array_equal(language["output.weight"], values["language_model.lm_head.weight"])
    np.testing.assert_array_equal(language["output_norm.weight"], values[f"{TEXT}.norm.weight"])
    np.testing.assert_array_equal(language["token_embd.weight"], values[f"{TEXT}.embed_tokens.weight"][:320])
    assert len(language) == 3 * 9 + 3 + 1


def test_llama3_scaling_becomes_frequency_factors(pair: Converted) -> None:
    # transformers' rule for theta 5e5, factor 8, low 1, high 4, original context 64, head_dim 64, worked out by hand.
    frequencies = 500000.0 ** (-np.arange(0, 64, 2) / 64)
    turns = 64 * frequencies / (2 * np.pi)  # turns within the original context
    between = (turns - 1) / 3
    slowed = np.where(turns > 4, 1, np.where(turns < 1, 1 / 8, (1 - between) / 8 + between))
    np.testing.assert_allclose(pair.language["rope_freqs.weight"], 1 / slowed, rtol=1e-6)
    assert {1.0, 8.0} < set(pair.language["rope_freqs.weight"].tolist()), "all three cases must occur"


def test_without_scaling_there_are_no_frequency_factors(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", replace(TINY, rope={}))
    assert "rope_freqs.weight" not in read_tensors(convert(tmp_path / "tiny", tmp_path, "f32").language)


def test_the_mmproj_file_holds_everything_else_unchanged(pair: Converted) -> None:
    values, _, mmproj, _ = pair
    for layer in (1, 3):
        hf = f"{TEXT}.layers.{layer}"
        for ours, theirs in {
            "attn_norm.weight": "input_layernorm.weight",
            "cross_attn_q.weight": "cross_attn.q_proj.weight",  # no rotary positions here: rows keep their order
            "cross_attn_k.weight": "cross_attn.k_proj.weight",
            "cross_attn_v.weight": "cross_attn.v_proj.weight",
            "cross_attn_output.weight": "cross_attn.o_proj.weight",
            "cross_attn_q_norm.weight": "cross_attn.q_norm.weight",
            "cross_attn_k_norm.weight": "cross_attn.k_norm.weight",
            "ffn_norm.weight": "post_attention_layernorm.weight",
            "ffn_gate.weight": "mlp.gate_proj.weight",
            "ffn_up.weight": "mlp.up_proj.weight",
            "ffn_down.weight": "mlp.down_proj.weight",
        }.items():
            np.testing.assert_array_equal(mmproj[f"blk.{layer}.{ours}"], values[f"{hf}.{theirs}"])
        for gate in ("attn_gate", "mlp_gate"):
            found = [name for name in mmproj if name.startswith(f"blk.{layer}.cross_attn_{gate}")]
            np.testing.assert_array_equal(mmproj[found[0]], values[f"{hf}.cross_attn_{gate}"])
    np.testing.assert_array_equal(mmproj["mm.0.weight"], values["multi_modal_projector.weight"])
    np.testing.assert_array_equal(mmproj["mm.0.bias"], values["multi_modal_projector.bias"])
    np.testing.assert_array_equal(mmproj["mm.image_token_embd.weight"], values[f"{TEXT}.embed_tokens.weight"][320])
    patches = values["vision_model.patch_embedding.weight"]
    np.testing.assert_array_equal(mmproj["v.patch_embd.weight"], patches.reshape(64, 3 * 14 * 14))
    vision = {name: value for name, value in values.items() if name.startswith("vision_model.")}
    assert len([name for name in mmproj if name.startswith("v.")]) == len(vision)
    held = sorted(mmproj[name].astype(np.float64).sum() for name in mmproj if name.startswith("v."))
    np.testing.assert_array_equal(held, sorted(value.astype(np.float64).sum() for value in vision.values()))


def test_hyperparameters_come_back_from_the_file(pair: Converted) -> None:
    read = HParams.from_gguf(read_metadata(pair.files.mmproj), "file")
    expected = TINY.hparams
    assert (read.text.cross_attention_layers, read.vision.intermediate_states) == ((1, 3), (0, 2))
    assert replace(read.text, rms_norm_eps=1e-5) == expected.text
    assert replace(read.vision, norm_eps=1e-5) == expected.vision
    np.testing.assert_allclose(read.image.image_mean, expected.image.image_mean, rtol=1e-7)
    assert read.image.supported_aspect_ratios == expected.image.supported_aspect_ratios


def test_language_metadata(pair: Converted) -> None:
    metadata = read_metadata(pair.files.language)
    wanted = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny",
        "general.file_type": 0,
        "llama.block_count": 3,
        "llama.context_length": 512,
        "llama.embedding_length": 256,
        "llama.feed_forward_length": 512,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.dimension_count": 64,
        "llama.rope.freq_base": 500000.0,
        "llama.vocab_size": 320,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.bos_token_id": 313,
        "tokenizer.ggml.eos_token_id": 319,
        "tokenizer.ggml.eot_token_id": 319,
        "tokenizer.ggml.eom_token_id": 318,
        "tokenizer.ggml.add_bos_token": True,
        PAIR_ID_KEY: pair.files.pair_id,
    }
    assert {key: metadata.get(key) for key in wanted} == wanted
    assert metadata["general.sampling.temp"] == pytest.approx(0.6)
    assert metadata["general.sampling.top_p"] == pytest.approx(0.9)
    assert read_metadata(pair.files.mmproj)[PAIR_ID_KEY] == pair.files.pair_id
    assert read_metadata(pair.files.mmproj)["general.type"] == "mmproj"


@pytest.mark.parametrize(
    "recipe",
    [
        replace(TINY, generation=2),
        replace(TINY, shards=3),
        replace(TINY, generation=2, shards=2, dtype="BF16"),
        replace(TINY, dtype="F16"),
    ],
    ids=["second generation", "three shards", "bf16 shards", "f16"],
)
def test_every_way_of_saving_gives_the_same_values(recipe: Recipe, tmp_path: Path) -> None:
    values = write_checkpoint(tmp_path / "tiny", recipe)
    result = convert(tmp_path / "tiny", tmp_path, "f32")
    language, mmproj = read_tensors(result.language), read_tensors(result.mmproj)
    np.testing.assert_array_equal(language["output.weight"], values["language_model.lm_head.weight"])
    np.testing.assert_array_equal(language["blk.2.ffn_down.weight"], values[f"{TEXT}.layers.4.mlp.down_proj.weight"])
    np.testing.assert_array_equal(
        language["blk.0.attn_k.weight"], interleave(values[f"{TEXT}.layers.0.self_attn.k_proj.weight"], 64)
    )
    np.testing.assert_array_equal(
        mmproj["v.global_blk.1.ffn_up.weight"], values["vision_model.global_transformer.layers.1.mlp.fc1.weight"]
    )
    assert "rope_freqs.weight" in language


def test_tied_embeddings_serve_as_lm_head(tmp_path: Path) -> None:
    values = write_checkpoint(tmp_path / "tiny", replace(TINY, tied=True))
    language = read_tensors(convert(tmp_path / "tiny", tmp_path, "f32").language)
    np.testing.assert_array_equal(language["output.weight"], values[f"{TEXT}.embed_tokens.weight"][:320])


def test_a_tensor_of_many_chunks_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = write_checkpoint(tmp_path / "tiny", TINY)
    monkeypatch.setattr("convert.parts._CHUNK_VALUES", 20_000)  # 64 rows of a head at a time, not a whole matrix
    language = read_tensors(convert(tmp_path / "tiny", tmp_path, "f32", threads=3).language)
    np.testing.assert_array_equal(language["output.weight"], values["language_model.lm_head.weight"])
    np.testing.assert_array_equal(
        language["blk.1.attn_q.weight"], interleave(values[f"{TEXT}.layers.2.self_attn.q_proj.weight"], 64)
    )


@pytest.mark.parametrize(
    ("version", "option", "states"),
    [
        ("4.45.0.dev0", "auto", (0, 2)),
        ("4.54.1", "auto", (0, 2)),
        (None, "auto", (0, 2)),
        ("4.56.0", "auto", (1, 3)),
        ("5.0.0", "auto", (1, 3)),
        ("5.0.0", "inputs", (0, 2)),
        ("4.45.0", "outputs", (1, 3)),
    ],
)
def test_which_states_are_stacked(
    version: str | None, option: IntermediateStates, states: tuple[int, ...], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "tiny", replace(TINY, transformers_version=version))
    result = convert(tmp_path / "tiny", tmp_path, "f32", intermediate_states=option)
    assert read_metadata(result.mmproj)["mllama.vision.intermediate_states"] == list(states)


def test_pair_id_names_the_checkpoint_and_not_the_quantization(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a", TINY)
    write_checkpoint(tmp_path / "b", replace(TINY, seed=1))
    first = convert(tmp_path / "a", tmp_path, "f32")
    assert convert(tmp_path / "a", tmp_path, "q4_k_s").pair_id == first.pair_id
    assert convert(tmp_path / "b", tmp_path, "f32").pair_id != first.pair_id


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    first = convert(tmp_path / "tiny", tmp_path / "one", "q4_k_m", threads=1)
    second = convert(tmp_path / "tiny", tmp_path / "two", "q4_k_m", threads=4)
    assert first.language.read_bytes() == second.language.read_bytes()
    assert first.mmproj.read_bytes() == second.mmproj.read_bytes()


def test_preprocessing_settings_of_transformers_5(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    preprocessor = tmp_path / "tiny" / "preprocessor_config.json"
    (tmp_path / "tiny" / "processor_config.json").write_text('{"image_processor": ' + preprocessor.read_text() + "}")
    preprocessor.unlink()
    edit_json(tmp_path / "tiny" / "processor_config.json", image_processor__image_mean=[0.25, 0.5, 0.75])
    result = convert(tmp_path / "tiny", tmp_path, "f32")
    assert read_metadata(result.mmproj)["mllama.image.mean"] == [0.25, 0.5, 0.75]


def test_names(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Xkev--Llama-3.2V-11B-cot" / "snapshots" / "0f1e2d"
    write_checkpoint(snapshot, TINY)
    result = convert(snapshot, tmp_path, "q8_0")
    assert result.language == tmp_path / "Llama-3.2V-11B-cot-Q8_0.gguf"
    assert result.mmproj == tmp_path / "Llama-3.2V-11B-cot-Q8_0.mmproj.gguf"
    assert (result.language_bytes, result.mmproj_bytes) == tuple(
        path.stat().st_size for path in (result.language, result.mmproj)
    )
    assert convert(snapshot, tmp_path, "q8_0", name="mine").language.name == "mine-Q8_0.gguf"


def test_progress_goes_to_the_end(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    calls: list[tuple[str, int, int]] = []
    convert(tmp_path / "tiny", tmp_path, "f32", progress=lambda *call: calls.append(call))
    done = [call[1] for call in calls]
    assert done == sorted(done) and done[-1] == calls[-1][2]
    assert {"token_embd.weight", "v.class_embd", "mm.0.weight"} <= {call[0] for call in calls}
