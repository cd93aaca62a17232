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


def _prompt(tokenizer: Tokenizer, question: str, image_token: int | None, bos_count: int) -> Iterator[int]:
    special, text = tokenizer.special_token, tokenizer.tokenize

    def header(role: str) -> Iterator[int]:
        yield special("<|start_header_id|>")
        yield from text(role)
        yield special("<|end_header_id|>")
        yield from text("\n\n")

    yield from [special("<|begin_of_text|>")] * bos_count
    if image_token is None:
        yield from header("system")
        yield from text(_TEXT_ONLY_SYSTEM)
        yield special("<|eot_id|>")
    yield from header("user")
    if image_token is not None:
        yield image_token
    yield from text(question)
    yield special("<|eot_id|>")
    yield from header("assistant")
