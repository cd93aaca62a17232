"""Step 4: text <-> token ids.

Knows the vocabulary: a small byte-level BPE behind Llama-3's pre-tokenizer, Llama-3's special tokens under their usual
names, and the chat template. Knows nothing about scenes beyond the sample texts it is given.
As in Llama-3.2-Vision the lm_head has `vocab_size` rows, `<|image|>` has id `vocab_size`, one past them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from cotcli.shapes.answers import make_answer
from cotcli.shapes.questions import make_question
from cotcli.shapes.scenes import TRAIN_SEED_BITS, make_scene
from training.tell import Told

VOCAB_SIZE = 640
_NUM_SPECIAL = 16
BOS, END_OF_TEXT, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
START_HEADER, END_HEADER = "<|start_header_id|>", "<|end_header_id|>"
EOM, EOT, PYTHON, IMAGE = "<|eom_id|>", "<|eot_id|>", "<|python_tag|>", "<|image|>"

# The pattern of Llama-3's tokenizer.json; llama.cpp knows it as `llama-bpe`.
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{%- if message['content'] is string %}{{- message['content'] }}"
    "{%- else %}{%- for part in message['content'] %}"
    "{%- if part['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif part['type'] == 'text' %}{{- part['text'] }}{%- endif %}"
    "{%- endfor %}{%- endif %}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
)


def sample_texts(number: int, seed: int = 0) -> Iterator[str]:
    """Questions and answers of `number` scenes, for the vocabulary to be learned from."""
    rng = random.Random(f"vocabulary {seed}")
    for _ in range(number):
        scene = make_scene(rng.getrandbits(TRAIN_SEED_BITS))
        question = make_question(scene, rng)
        yield question.text
        yield make_answer(scene.seen, question, rng)
    yield from ("user", "assistant", "system", "\n\n") * (number // 10)


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A vocabulary of VOCAB_SIZE ids plus `<|image|>`; all 256 bytes are in it, so that any text has tokens."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - _NUM_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    named = [BOS, END_OF_TEXT, PAD, START_HEADER, END_HEADER, EOM, EOT, PYTHON]
    free = VOCAB_SIZE - tokenizer.get_vocab_size() - len(named)
    named += [f"<|reserved_special_token_{i}|>" for i in range(free)] + [IMAGE]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in named])
    if tokenizer.token_to_id(IMAGE) != VOCAB_SIZE:
        raise ValueError(f"{IMAGE} must have id {VOCAB_SIZE}, has {tokenizer.token_to_id(IMAGE)}")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return tokenizer


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """The id of a special token; ValueError if the vocabulary lacks it."""
    found = tokenizer.token_to_id(name)
    if found is None:
        raise ValueError(f"the vocabulary lacks {name}")
    return int(found)


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json, tokenizer_config.json and the chat template as transformers does."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOT,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    ).save_pretrained(folder)


class PromptEncoder:
    """Question -> prompt ids and answer -> answer ids, for one tokenizer.

    User text never yields special tokens: it is encoded with their names switched off.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._plain = Tokenizer.from_str(tokenizer.to_str())
        self._plain.encode_special_tokens = True
        special = {name: special_id(tokenizer, name) for name in (BOS, START_HEADER, END_HEADER, EOT, IMAGE, PAD)}
        start, end, self.eot_id, self.pad_id = (special[name] for name in (START_HEADER, END_HEADER, EOT, PAD))
        break_ids = self._ids("\n\n")
        self._before = [special[BOS], start, *self._ids("user"), end, *break_ids, special[IMAGE]]
        self._after = [self.eot_id, start, *self._ids("assistant"), end, *break_ids]
        self.image_position = len(self._before) - 1

    def prompt(self, question: str) -> list[int]:
        """The ids of the whole prompt, up to where the answer begins."""
        return [*self._before, *self._ids(question), *self._after]

    def answer(self, told: Told) -> tuple[list[int], list[float]]:
        """The ids of an answer with the end-of-turn token, and how much each counts in the loss."""
        encoding = self._plain.encode(told.text, add_special_tokens=False)
        weight_of = np.ones(len(told.text), np.float32)
        for start, end, weight in told.spans:
            weight_of[start:end] = weight
        parts = [weight_of[start:end] for start, end in encoding.offsets]
        weights = [float(part.max(initial=1.0)) if part.all() else 0.0 for part in parts]
        return [*encoding.ids, self.eot_id], [*weights, 1.0]

    def _ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)
