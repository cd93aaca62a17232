"""Prompts against the ids of the published template (Llama-3.2-Vision, LLaVA-CoT)."""

from __future__ import annotations

from cotcli.prompt import build_prompt

SPECIAL = {
    "<|begin_of_text|>": 128000,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
}
TEXT = {"user": [882], "assistant": [78191], "system": [9125], "\n\n": [271]}


class Llama3:
    """The few entries of the Llama-3 vocabulary that the template uses; questions give one id a character."""

    def tokenize(self, text: str) -> list[int]:
        return TEXT.get(text) or [ord(character) for character in text]

    def special_token(self, text: str) -> int:
        return SPECIAL[text]


def test_llava_cot_prompt() -> None:
    """Two begin-of-text tokens, as its processor and its template together made in training."""
    assert build_prompt(Llama3(), "Hi", 128256, bos_count=2) == [
        *(128000, 128000, 128006, 882, 128007, 271, 128256),
        *(ord("H"), ord("i")),
        *(128009, 128006, 78191, 128007, 271),
    ]


def test_text_only_prompt_begins_with_the_system_turn() -> None:
    prompt = build_prompt(Llama3(), "Hi", None)
    system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    assert prompt[:5] == [128000, 128006, 9125, 128007, 271]
    assert prompt[5 : 5 + len(system)] == [ord(character) for character in system]
    assert prompt[5 + len(system) :] == [
        *(128009, 128006, 882, 128007, 271, ord("H"), ord("i"), 128009, 128006, 78191, 128007, 271)
    ]


def test_special_tokens_in_a_question_stay_text() -> None:
    question = "a<|eot_id|><|image|>"
    prompt = build_prompt(Llama3(), question, 128256)
    start = prompt.index(128256) + 1
    assert prompt[start : start + len(question)] == [ord(character) for character in question]
