"""llama.cpp with our vocabulary against the HF tokenizer, on the true Llama-3 vocabulary."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.llama3_tokenizer import vocabulary_path, write_tokenizer
from benchmarks.small_checkpoints import (
    Recipe,
    byte_alphabet,
    config,
    random_tensors,
    write_checkpoint,
    write_json,
    write_safetensors,
)
from convert import convert
from tests.texts import CORE, SPECIAL_IN_TEXT, random_texts

pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")
# In CI a missing vocabulary is an error of the fixture below.
pytestmark = pytest.mark.skipif(
    vocabulary_path() is None and not os.environ.get("CI"), reason="pip install --no-deps llama-models==0.3.0"
)


Both = tuple[Any, Any, Path]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The HF tokenizer and llama.cpp's, from one folder: a tiny model with a vocabulary of true size."""
    import llama_cpp

    folder = tmp_path_factory.mktemp("llama3")
    recipe = Recipe(hidden_size=32, intermediate_size=32, heads=2, kv_heads=1, layers=2, cross_attention_layers=(1,))
    full = replace(recipe, vocab_size=128256)
    write_checkpoint(folder / "model", recipe)  # its small tokenizer is replaced below
    write_safetensors(folder / "model" / "model.safetensors", random_tensors(full), "F16")
    write_json(folder / "model" / "config.json", config(full))
    write_tokenizer(folder / "model")
    language = convert(folder / "model", folder, "f16").language
    hf = tokenizers.Tokenizer.from_file(str(folder / "model" / "tokenizer.json"))
    hf.encode_special_tokens = True  # user text is text: names of special tokens in it are spelled out
    return hf, llama_cpp.Llama(str(language), vocab_only=True, verbose=False), folder


def assert_same(both: Both, texts: Iterable[str]) -> None:
    hf, llama, _ = both
    different = []
    for text in texts:
        expected = hf.encode(text, add_special_tokens=False).ids
        ours = llama.tokenize(text.encode(), add_bos=False, special=False)
        if ours != expected:
            different.append((text, expected, ours))
    assert different == []


def test_core_texts(both: Both) -> None:
    assert_same(both, CORE)


def test_hundreds_of_mixed_texts(both: Both) -> None:
    assert_same(both, random_texts(600, seed=1))


def test_every_code_point_between_letters_digits_and_spaces(both: Both) -> None:
    """llama.cpp has its own tables of letters, digits and spaces; transformers' regular expressions have others."""
    characters = (chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
    assigned = [c for c in characters if unicodedata.category(c) not in ("Cn", "Co")]
    assert len(assigned) > 140_000
    assert_same(both, [f"a{c}b 1{c}2 .{c}. {c} x" for c in assigned])


def test_names_of_special_tokens_in_text_stay_text(both: Both) -> None:
    hf, llama, _ = both
    assert_same(both, SPECIAL_IN_TEXT)
    for text in SPECIAL_IN_TEXT:
        assert max(llama.tokenize(text.encode(), add_bos=False, special=False)) < 128000
    # The same names do mean special tokens where the prompt is built.
    assert llama.tokenize(b"<|eot_id|>", add_bos=False, special=True) == [128009]
    assert llama.tokenize(b"x", add_bos=True, special=False) == [128000, *hf.encode("x", add_special_tokens=False).ids]


def test_every_token_has_its_text(both: Both) -> None:
    _, llama, folder = both
    vocabulary = json.loads((folder / "model" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert llama.n_vocab() == 128256
    for token, index in list(vocabulary.items())[::997]:
        assert llama.detokenize([index]) == bytes(hf_bytes(token)), token


def hf_bytes(token: str) -> list[int]:
    alphabet = byte_alphabet()
    return [alphabet[character] for character in token]


def test_end_of_generation_tokens(both: Both) -> None:
    import llama_cpp

    vocab = llama_cpp.llama_model_get_vocab(both[1].model)
    ends = [i for i in range(128000, 128256) if llama_cpp.llama_vocab_is_eog(vocab, i)]
    assert ends == [128001, 128008, 128009]
    assert llama_cpp.llama_vocab_bos(vocab) == 128000


def test_tokens_are_those_of_metas_own_tokenizer(both: Both) -> None:
    """A third opinion: tiktoken over Meta's ranks, the code the model was trained with."""
    import tiktoken
    from tiktoken.load import load_tiktoken_bpe

    from convert.tokenizer import LLAMA3_PATTERN

    ranks = load_tiktoken_bpe(str(vocabulary_path()))
    meta = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens={})
    different = [
        text
        for text in (*CORE, *SPECIAL_IN_TEXT, *random_texts(200, seed=2))
        if both[1].tokenize(text.encode(), add_bos=False, special=False) != meta.encode(text, disallowed_special=())
    ]
    assert different == []
