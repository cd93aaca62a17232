"""Logits -> the next token, by libllama's samplers.

Knows ``GenerationParams``, and how choices or a JSON Schema become a grammar over the text of the conclusion.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cotcli.answer import GenerationParams
from cotcli.errors import CotcliError, UsageError
from cotcli.native.llama import LlamaModel, SamplerChain, json_schema_to_grammar

# llama.cpp's own default for how far back the repeat penalty looks.
_PENALTY_WINDOW = 64
_NOT_IN_GRAMMARS = frozenset(
    {
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "uniqueItems",
        "minProperties",
        "maxProperties",
        "patternProperties",
        "propertyNames",
        "contains",
        "minContains",
        "maxContains",
        "not",
        "if",
        "then",
        "else",
        "dependencies",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
    }
)


@dataclass(frozen=True)
class Grammar:
    """GBNF rules and the name of the one to begin with."""

    rules: str
    root: str


def build_sampler(model: LlamaModel, params: GenerationParams, grammar: Grammar | None = None) -> SamplerChain:
    """A sampler chain in transformers' order (temperature, then top-k, top-p and min-p; ``GenerationMixin``).

    Args:
        grammar: tokens that leave it are never drawn.
    """
    chain = SamplerChain()
    try:
        _fill(chain, model, params, grammar)
    except BaseException:
        chain.close()
        raise
    return chain


def _fill(chain: SamplerChain, model: LlamaModel, params: GenerationParams, grammar: Grammar | None) -> None:
    if grammar is not None:
        try:
            chain.add_grammar(model, grammar.rules, grammar.root)
        except CotcliError as error:
            raise UsageError(
                "llama.cpp does not take the grammar made of the JSON Schema or the choices",
                "In a pattern, write classes out: [0-9] for \\d",
            ) from error
    if params.repeat_penalty != 1.0:
        chain.add("penalties", model.n_vocab, _PENALTY_WINDOW, params.repeat_penalty, 0.0, 0.0)
    if params.temperature == 0:
        chain.add("greedy")
        return
    chain.add("temp", params.temperature)
    if params.top_k > 0:
        chain.add("top_k", params.top_k)
    if params.top_p < 1:
        chain.add("top_p", params.top_p, 1)
    if params.min_p > 0:
        chain.add("min_p", params.min_p, 1)
    chain.add("dist", params.seed)


def conclusion_grammar(params: GenerationParams, *, after_mark: bool, closing_tag: str) -> Grammar | None:
    """What a conclusion may be, None when it may be anything.

    Args:
        after_mark: whether it follows a tag or a heading, and may thus begin with a blank.
        closing_tag: ends it; empty for a model that writes none.

    Raises:
        UsageError: the JSON Schema has something that llama.cpp's grammars cannot express.
    """
    if params.choices is not None:
        rules = "root ::= " + " | ".join(_literal(choice.strip()) for choice in params.choices)
    elif params.json_schema is not None:
        try:
            _refuse_keywords(json.loads(params.json_schema))
            rules = json_schema_to_grammar(params.json_schema)
        except UsageError:
            raise
        except RecursionError:
            raise UsageError("the JSON Schema is nested too deeply") from None
        except Exception as error:  # the converter raises what it happens to trip over
            raise UsageError(f"the JSON Schema cannot be made into a grammar: {error}") from error
    else:
        return None
    if not after_mark:
        return Grammar(rules, "root")
    root = "conclusion"
    while f"{root} ::=" in rules:  # the converter names rules after properties
        root += "-"
    closing = f" [ \\n]? {_literal(closing_tag)}" if closing_tag else ""
    return Grammar(f"{rules}\n{root} ::= [ \\n]? root{closing}\n", root)


def _literal(text: str) -> str:
    """A GBNF string literal."""
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
        text = text.replace(plain, escaped)
    return f'"{text}"'


def _refuse_keywords(schema: Any) -> None:
    """The converter drops silently what it cannot express; what is not enforced must not be promised."""
    if isinstance(schema, list):
        for part in schema:
            _refuse_keywords(part)
    if not isinstance(schema, dict):
        return
    required, properties = schema.get("required"), schema.get("properties")
    known = set(properties) if isinstance(properties, dict) else set()
    refused = {
        "required": isinstance(required, list) and not known.issuperset(map(str, required)),
        "allOf": not all(
            isinstance(part, dict) and {"properties", "$ref"} & part.keys() for part in schema.get("allOf", ())
        ),
        "pattern": "|" in str(schema.get("pattern", "")),  # the converter does not group alternatives
    }
    for keyword, value in schema.items():
        if keyword in _NOT_IN_GRAMMARS or refused.get(keyword):
            raise UsageError(
                f"the JSON Schema's {json.dumps(keyword)} cannot be enforced while a model writes",
                "Leave it out, and check the answer afterwards",
            )
        if keyword in ("properties", "$defs", "definitions"):
            _refuse_keywords(list(value.values()) if isinstance(value, dict) else None)
        elif keyword not in ("enum", "const", "default", "examples"):
            _refuse_keywords(value)
