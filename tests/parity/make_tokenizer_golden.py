"""Writes ``tests/data/tokenizer``: a small Llama-3 style vocabulary, and what the HF tokenizer makes of mixed texts.

    python -m tests.parity.make_tokenizer_golden

tokenizer.json and tokenizer_config.json are a folder that convert reads; golden.json holds texts and their ids, with
names of special tokens taken as text.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from benchmarks.small_checkpoints import LLAMA3_PATTERN, SPECIAL
from tests.texts import CORE, SPECIAL_IN_TEXT, random_texts

FOLDER = Path(__file__).parent.parent / "data" / "tokenizer"
VOCAB_SIZE = 768


def train() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - 1,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*CORE * 20, *random_texts(1000, seed=3)], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL])
    # An added token that is not special is found in user text too.
    tokenizer.add_tokens([AddedToken("cotcli!", special=False, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<|image|>", special=True, normalized=False)])
    bos = SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    tokenizer = train()
    assert tokenizer.token_to_id("<|image|>") == VOCAB_SIZE
    tokenizer.save(str(FOLDER / "tokenizer.json"), pretty=False)
    config = {"bos_token": SPECIAL[0], "eos_token": "<|eot_id|>", "chat_template": "{{ messages[0]['content'] }}"}
    (FOLDER / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tokenizer.encode_special_tokens = True
    texts = [*CORE, *SPECIAL_IN_TEXT, "say cotcli! twice: cotcli!cotcli!", *random_texts(150, seed=4)]
    golden = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]
    (FOLDER / "golden.json").write_text("[\n" + ",\n".join(map(json.dumps, golden)) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
