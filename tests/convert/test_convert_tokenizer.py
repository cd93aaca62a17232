"""The vocabulary in the language file: its tokens and types, and what llama.cpp makes of text with it.

The golden ids are the HF tokenizer's own: ``python -m tests.parity.make_tokenizer_golden``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from gguf import GGUFReader, TokenType

from benchmarks.small_checkpoints import SPECIAL, TINY, edit_json, write_checkpoint
from convert import convert

DATA = Path(__file__).parent.parent / "data" / "tokenizer"
VOCAB_SIZE = 768
RECIPE = replace(TINY, vocab_size=VOCAB_SIZE, layers=2, cross_attention_layers=(1,))


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_checkpoint(folder / "model", RECIPE)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(DATA / name, folder / "model" / name)
    return convert(folder / "model", folder, "f16").language


@pytest.fixture(scope="module")
def llama(language: Path) -> llama_cpp.Llama:
    return llama_cpp.Llama(str(language), vocab_only=True, verbose=False)


def field(path: Path, key: str) -> Any:
    found = GGUFReader(path).fields.get(key)
    return None if found is None else found.contents()


def test_texts_become_the_hf_tokenizers_ids(llama: llama_cpp.Llama) -> None:
    golden = json.loads((DATA / "golden.json").read_text(encoding="utf-8"))
    assert len(golden) > 180
    different = [
        case["text"]
        for case in golden
        if llama.tokenize(case["text"].encode(), add_bos=False, special=False) != case["ids"]
    ]
    assert different == []


def test_names_of_special_tokens_are_text_unless_the_prompt_asks(llama: llama_cpp.Llama) -> None:
    bos = VOCAB_SIZE - 1 - len(SPECIAL)
    assert max(llama.tokenize(b"<|eot_id|><|image|>", add_bos=False, special=False)) < bos
    assert llama.tokenize(b"<|eot_id|>", add_bos=False, special=True) == [bos + SPECIAL.index("<|eot_id|>")]
    assert llama.tokenize(b"", add_bos=True, special=False) == [bos]


def test_tokens_and_types(language: Path) -> None:
    tokens, types = field(language, "tokenizer.ggml.tokens"), field(language, "tokenizer.ggml.token_type")
    vocabulary = json.loads((DATA / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    normal = len(vocabulary)
    assert len(tokens) == len(types) == VOCAB_SIZE
    assert tokens[:normal] == sorted(vocabulary, key=vocabulary.__getitem__)
    assert tokens[normal:] == [*SPECIAL, "cotcli!"]
    assert set(types[:normal]) == {TokenType.NORMAL}
    assert types[normal:] == [TokenType.CONTROL] * len(SPECIAL) + [TokenType.USER_DEFINED]


def test_all_three_stop_tokens_end_generation(llama: llama_cpp.Llama) -> None:
    vocab = llama_cpp.llama_model_get_vocab(llama.model)
    bos = VOCAB_SIZE - 1 - len(SPECIAL)
    ends = {i for i in range(VOCAB_SIZE) if llama_cpp.llama_vocab_is_eog(vocab, i)}
    assert ends == {bos + SPECIAL.index(name) for name in ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")}


def test_rows_without_a_token_are_unused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    edit_json(tmp_path / "tiny" / "tokenizer.json", added_tokens=[])
    language = convert(tmp_path / "tiny", tmp_path, "f16").language
    assert field(language, "tokenizer.ggml.tokens")[313:] == [f"[PAD{i}]" for i in range(313, 320)]
    assert field(language, "tokenizer.ggml.token_type")[313:] == [TokenType.UNUSED] * 7


def test_the_image_token_may_lie_inside_a_larger_vocabulary(tmp_path: Path) -> None:
    """As in finetunes whose lm_head was resized to cover it."""
    write_checkpoint(tmp_path / "tiny", TINY)
    edit_json(tmp_path / "tiny" / "config.json", image_token_index=319)
    tokenizer = json.loads((tmp_path / "tiny" / "tokenizer.json").read_text(encoding="utf-8"))
    added = [*tokenizer["added_tokens"][:6], {**tokenizer["added_tokens"][7], "id": 319}]
    edit_json(tmp_path / "tiny" / "tokenizer.json", added_tokens=added)
    language = convert(tmp_path / "tiny", tmp_path, "f16").language
    assert field(language, "tokenizer.ggml.tokens")[319] == "<|image|>"
    assert field(language, "tokenizer.ggml.token_type")[319] == TokenType.CONTROL


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja", "chat_template.json"])
def test_chat_template(place: str, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    folder = tmp_path / "tiny"
    template = "{{ 'of ' + messages[0]['role'] }}"
    edit_json(folder / "tokenizer_config.json", chat_template=...)
    if place == "tokenizer_config.json":
        edit_json(folder / place, chat_template=template)
    elif place == "chat_template.jinja":
        (folder / place).write_text(template)
    else:
        (folder / place).write_text(json.dumps({"chat_template": template}))
    assert field(convert(folder, tmp_path, "f16").language, "tokenizer.chat_template") == template


def test_bos_flag_follows_the_post_processor(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    edit_json(tmp_path / "tiny" / "tokenizer.json", post_processor={"type": "ByteLevel"})
    assert field(convert(tmp_path / "tiny", tmp_path, "f16").language, "tokenizer.ggml.add_bos_token") is False


def test_greedy_checkpoints_carry_no_sampling_defaults(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", TINY)
    edit_json(tmp_path / "tiny" / "generation_config.json", do_sample=False)
    assert field(convert(tmp_path / "tiny", tmp_path, "f16").language, "general.sampling.temp") is None
