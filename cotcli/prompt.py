"""A question -> the tokens before the answer.

Knows Llama 3.2's turn format (the chat template of the mllama checkpoints), nothing of engines. Special tokens are put
in by id; a question is tokenized as plain text, so that ``<|eot_id|>`` in it means those characters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

# The template's own date where the caller's clock is not asked, so that the same question gives the same tokens.
_TEXT_ONLY_SYSTEM = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"


class Tokenizer(Protocol):
    """What a prompt needs of a vocabulary; ``cotcli.native.llama.LlamaModel`` has it."""

    def tokenize(self, text: str) -> list[int]: ...

    def special_token(self, text: str) -> int: ...


def build_prompt(tokenizer: Tokenizer, question: str, image_token: int | None, bos_count: int = 1) -> list[int]:
    """Tokens of one user turn and the opening of the assistant's.

    Args:
        question: any text.
        image_token: the id that stands for the image, None for a question without one; such a prompt begins with the
            template's system turn.
        bos_count: how many ``<|begin_of_text|>`` to begin with. LLaVA-CoT was trained with two: its processor put one
            before the template's.
    """
    return list(_prompt(tokenizer, question, image_token, bos_count))


def build_next_turn(tokenizer: Tokenizer, question: str) -> list[int]:
    """Tokens between the end of an answer and the beginning of the next: the assistant's turn is ended, the user asks,
    and the assistant's next turn is opened."""
    return [tokenizer.special_token("<|eot_id|>"), *_turn(tokenizer, question, None)]


def _prompt(tokenizer: Tokenizer, question: str, image_token: int | None, bos_count: int) -> Iterator[int]:
    yield from [tokenizer.special_token("<|begin_of_text|>")] * bos_count
    if image_token is None:
        yield from _header(tokenizer, "system")
        yield from tokenizer.tokenize(_TEXT_ONLY_SYSTEM)
        yield tokenizer.special_token("<|eot_id|>")
    yield from _turn(tokenizer, question, image_token)


def _turn(tokenizer: Tokenizer, question: str, image_token: int | None) -> Iterator[int]:
    yield from _header(tokenizer, "user")
    if image_token is not None:
        yield image_token
    yield from tokenizer.tokenize(question)
    yield tokenizer.special_token("<|eot_id|>")
    yield from _header(tokenizer, "assistant")


def _header(tokenizer: Tokenizer, role: str) -> Iterator[int]:
    yield tokenizer.special_token("<|start_header_id|>")
    yield from tokenizer.tokenize(role)
    yield tokenizer.special_token("<|end_header_id|>")
    yield from tokenizer.tokenize("\n\n")
