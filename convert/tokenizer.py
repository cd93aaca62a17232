"""tokenizer.json and its companions -> the vocabulary part of the language file, as llama.cpp expects it.

Only one kind of tokenizer passes: Llama-3's byte-level BPE, which llama.cpp calls ``gpt2`` with pre-tokenizer
``llama-bpe``. Anything else in tokenizer.json would be ignored by llama.cpp and text would quietly become other tokens,
so it is refused. Merges, special ids, the BOS flag and the chat template are read by gguf's own SpecialVocab.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, SpecialVocab, TokenType

from convert.config import read_json
from cotcli.errors import CheckpointError
from cotcli.mllama.hparams import TextHParams

# The Split pattern of Llama-3's tokenizer.json: the one llama.cpp's llama-bpe implements.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Llama-3's own post-processor makes gguf warn about pairs of sequences, which nobody here builds.
logging.getLogger("gguf.vocab").addHandler(logging.NullHandler())
_STOP_TOKENS = {"eot": "<|eot_id|>", "eom": "<|eom_id|>"}


@dataclass(frozen=True)
class Vocabulary:
    """``vocab_size`` tokens; the image token has no place among them unless the model's vocabulary includes it."""

    tokens: list[str]
    types: list[TokenType]
    special: SpecialVocab

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("llama-bpe")
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        self.special.add_to_gguf(writer, quiet=True)


def read_vocabulary(folder: Path, text: TextHParams) -> Vocabulary:
    """The vocabulary of a HF folder.

    Raises:
        CheckpointError: tokenizer.json is missing, of another kind, or larger than the model's vocabulary.
    """
    path = folder / "tokenizer.json"
    tokenizer = read_json(path)
    _check_kind(tokenizer, str(path))
    ids: dict[int, str] = {int(index): token for token, index in tokenizer["model"]["vocab"].items()}
    types = dict.fromkeys(ids, TokenType.NORMAL)
    for added in tokenizer.get("added_tokens") or []:
        index, token = int(added["id"]), str(added["content"])
        ids[index] = token
        # A control token is never found in user text; a user-defined one always is, as in transformers.
        control = added.get("special") or (token.startswith("<|") and token.endswith("|>"))
        types[index] = TokenType.CONTROL if control else TokenType.USER_DEFINED
    beyond = [i for i in ids if i >= text.vocab_size and i != text.image_token_index]
    if any(types[i] is not TokenType.CONTROL for i in beyond):
        raise CheckpointError(
            f"{path} has {max(ids) + 1} tokens, the model's lm_head only {text.vocab_size}",
            "Tokenizer and model do not belong together: download the checkpoint again",
        )
    try:
        special = SpecialVocab(folder, load_merges=True, n_vocab=text.vocab_size)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: the tokenizer's files cannot be read: {error}") from error
    if not special.merges:
        raise CheckpointError(f"{path} has no merges, so it is not a byte-level BPE", "Download the file again")
    special.add_special_token.setdefault("bos", False)  # without the key llama.cpp would add one to llama-bpe text
    inside = {token: i for i, token in ids.items() if i < text.vocab_size}
    special.special_token_ids |= {name: inside[token] for name, token in _STOP_TOKENS.items() if token in inside}
    return Vocabulary(
        # Rows of the lm_head without a token get llama.cpp's own filler.
        tokens=[ids.get(i, f"[PAD{i}]") for i in range(text.vocab_size)],
        types=[types.get(i, TokenType.UNUSED) for i in range(text.vocab_size)],
        special=special,
    )


def _check_kind(tokenizer: Mapping[str, Any], where: str) -> None:
    def refuse(what: str) -> CheckpointError:
        return CheckpointError(f"{where}: {what}; only Llama-3's tokenizer (llama-bpe) can be converted")

    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE" or not isinstance(model.get("vocab"), dict):
        raise refuse("the model is not BPE")
    for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(key):
            raise refuse(f"{key} is set")
    if not model.get("ignore_merges"):
        raise refuse("ignore_merges is off")  # llama-bpe takes a whole word that is in the vocabulary, merges or not
    if tokenizer.get("normalizer"):
        raise refuse("there is a normalizer")
    steps = tokenizer.get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if [step.get("type") for step in steps] != ["Split", "ByteLevel"]:
        raise refuse("the pre-tokenizer is not Split then ByteLevel")
    split, bytes_ = steps
    if split.get("pattern") != {"Regex": LLAMA3_PATTERN} or split.get("invert") or split.get("behavior") != "Isolated":
        raise refuse("the pre-tokenizer splits by another pattern")
    if bytes_.get("add_prefix_space") or bytes_.get("use_regex", True):
        raise refuse("the pre-tokenizer adds a space or splits again")
