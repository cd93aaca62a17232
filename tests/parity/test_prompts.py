"""Prompts of one turn and of several against transformers' rendering of the chat template and its own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from cotcli.prompt import build_next_turn, build_prompt
from cotcli.specs import ModelSpec, specs
from training.tokenizer import IMAGE, sample_texts, save_tokenizer, special_id, train_tokenizer

ANSWERS = ["First I count.\n\n", "<CAPTION>two cats</CAPTION>", "1. One.\n2. Two.", "2"]


class Plain:
    """The same vocabulary as a prompt is built with: text never yields special tokens."""

    def __init__(self, folder: Path) -> None:
        self._fast = transformers.AutoTokenizer.from_pretrained(folder)

    def tokenize(self, text: str) -> list[int]:
        return list(self._fast.encode(text, add_special_tokens=False, split_special_tokens=True))

    def special_token(self, text: str) -> int:
        return int(self._fast.convert_tokens_to_ids(text))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(sample_texts(300)), folder)
    return folder


@pytest.mark.parametrize("spec", [spec for spec in specs().values()], ids=lambda spec: spec.name)
def test_what_each_model_is_asked(folder: Path, spec: ModelSpec) -> None:
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    plain = Plain(folder)
    image = special_id(fast.backend_tokenizer, IMAGE)
    question = "How many cats?\nA. 1\nB. 2"
    prompts = [turn.prompt for turn in spec.turns[1:]] if spec.stage_format == "turns" else []

    ours = build_prompt(plain, spec.wording(question), image, spec.bos_count)
    messages: list[Any] = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": spec.wording(question)}]}
    ]
    for answer, prompt in zip(ANSWERS, prompts, strict=False):
        ours += plain.tokenize(answer) + build_next_turn(plain, prompt)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        messages.append({"role": "user", "content": [{"type": "text", "text": prompt}]})
    rendered = fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    # As the processors of LLaVA-CoT and LlamaV-o1 do, the tokenizer puts one more before the template's.
    expected = fast(rendered, add_special_tokens=False)["input_ids"]
    assert ours == [plain.special_token("<|begin_of_text|>")] * (spec.bos_count - 1) + expected
