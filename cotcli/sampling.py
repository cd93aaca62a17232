"""Logits -> the next token, by libllama's samplers.

Knows ``GenerationParams``, and how choices or a JSON Schema become a grammar over the text of the conclusion.
"""

from __future__ import annotations

import json

from cotcli.answer import GenerationParams
from cotcli.errors import UsageError
from cotcli.native.llama import LlamaModel, SamplerChain, json_schema_to_grammar

# llama.cpp's own default for how far back the repeat penalty looks.
_PENALTY_WINDOW = 64


def build_sampler(model: LlamaModel, params: GenerationParams, grammar: str | None = None) -> SamplerChain:
    """A sampler chain in transformers' order (temperature, then top-k, top-p and min-p; ``GenerationMixin``).

    Args:
        grammar: GBNF with the rule ``conclusion`` as its root; tokens that leave it are never drawn.
    """
    chain = SamplerChain()
    if grammar is not None:
        chain.add_grammar(model, grammar, "conclusion")
    if params.repeat_penalty != 1.0:
        chain.add("penalties", model.n_vocab, _PENALTY_WINDOW, params.repeat_penalty, 0.0, 0.0)
    if params.temperature == 0:
        return chain.add("greedy")
    chain.add("temp", params.temperature)
    if params.top_k > 0:
        chain.add("top_k", params.top_k)
    if params.top_p < 1:
        chain.add("top_p", params.top_p, 1)
    if params.min_p > 0:
        chain.add("min_p", params.min_p, 1)
    return chain.add("dist", params.seed)


def conclusion_grammar(params: GenerationParams, closing_tag: str) -> str | None:
    """GBNF for what may follow the conclusion's opening tag, None when anything may.

    Args:
        closing_tag: ends the conclusion; empty for a model that writes no tags.

    Raises:
        UsageError: the JSON Schema has something llama.cpp's grammars cannot express.
    """
    if params.choices is not None:
        value = "value ::= " + " | ".join(_literal(choice.strip()) for choice in params.choices)
    elif params.json_schema is not None:
        try:
            value = "value ::= root\n" + json_schema_to_grammar(params.json_schema)
        except Exception as error:  # the converter raises what it happens to trip over
            raise UsageError(f"the JSON Schema cannot be made into a grammar: {error}") from error
    else:
        return None
    if not closing_tag:
        return f"conclusion ::= value\n{value}\n"
    return f"conclusion ::= [ \\n]? value [ \\n]? {_literal(closing_tag)}\n{value}\n"


def _literal(text: str) -> str:
    """A GBNF string literal; its escapes for quotes, backslashes and line breaks are JSON's."""
    return json.dumps(text, ensure_ascii=False)
