"""Sampling against distributions computed in NumPy from the same logits, in transformers' order of filters."""

from __future__ import annotations

import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.small_checkpoints import Recipe, write_checkpoint
from convert import convert
from cotcli.answer import GenerationParams
from cotcli.engine import Engine, EngineOptions, TokenSequence
from cotcli.errors import UsageError
from cotcli.sampling import build_sampler, conclusion_grammar

DRAWS = 4000


@pytest.fixture(scope="module")
def prefilled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Engine, TokenSequence]]:
    folder = tmp_path_factory.mktemp("sampling")
    write_checkpoint(folder / "checkpoint", Recipe(hidden_size=64, intermediate_size=128))
    converted = convert(folder / "checkpoint", folder, "f32", name="random")
    with Engine(converted.language, converted.mmproj, EngineOptions(threads=1, context_length=256)) as engine:
        sequence = engine.sequence()
        engine.prefill(sequence, [5, 9, 200, 31])
        yield engine, sequence


def expected(logits: np.ndarray[Any, Any], params: GenerationParams) -> np.ndarray[Any, Any]:
    """Probabilities after temperature, top-k, top-p and min-p, as transformers' logits warpers define them."""
    scaled = logits.astype(np.float64) / params.temperature
    order = np.argsort(-scaled)
    keep = np.ones(len(order), bool)
    if params.top_k:
        keep[order[params.top_k :]] = False
    p = softmax(np.where(keep, scaled, -np.inf))
    if params.top_p < 1:
        before = np.cumsum(p[order]) - p[order]  # a token stays while those before it are short of top_p
        keep[order[before >= params.top_p]] = False
        p = softmax(np.where(keep, scaled, -np.inf))
    if params.min_p:
        keep &= p >= params.min_p * p.max()
        p = softmax(np.where(keep, scaled, -np.inf))
    return p


def softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    e = np.exp(x - x.max())
    result: np.ndarray[Any, Any] = e / e.sum()
    return result


@pytest.mark.parametrize(
    "params",
    [
        GenerationParams(temperature=1.0, top_p=1.0, seed=1),
        GenerationParams(temperature=0.6, top_p=0.9, seed=2),
        GenerationParams(temperature=1.7, top_p=1.0, top_k=7, seed=3),
        GenerationParams(temperature=1.2, top_p=0.8, top_k=20, seed=4),
        GenerationParams(temperature=0.9, top_p=1.0, min_p=0.1, seed=5),
    ],
    ids=["plain", "llava-cot", "top-k", "top-k-and-p", "min-p"],
)
def test_frequencies_follow_the_filtered_distribution(
    prefilled: tuple[Engine, TokenSequence], params: GenerationParams
) -> None:
    engine, sequence = prefilled
    p = expected(engine.logits(sequence), params)
    with build_sampler(engine.model, params) as sampler:
        counts = Counter(sampler.sample(engine.context, engine.output_of(sequence)) for _ in range(DRAWS))
    assert all(p[token] > 0 for token in counts), "drew a token that a filter removes"
    frequent = p * DRAWS >= 5
    observed = np.array([counts[token] for token in np.flatnonzero(frequent)] + [0])
    observed[-1] = DRAWS - observed.sum()
    wanted = np.append(p[frequent], 1 - p[frequent].sum()) * DRAWS
    valid = wanted > 1e-9
    chi2 = float((((observed - wanted) ** 2)[valid] / wanted[valid]).sum())
    freedom = int(valid.sum()) - 1
    assert chi2 < freedom + 5 * (2 * max(freedom, 1)) ** 0.5  # five standard deviations


def test_greedy_takes_the_largest_logit(prefilled: tuple[Engine, TokenSequence]) -> None:
    engine, sequence = prefilled
    with build_sampler(engine.model, GenerationParams(temperature=0.0)) as sampler:
        token = sampler.sample(engine.context, engine.output_of(sequence))
    assert token == int(engine.logits(sequence).argmax())


def test_repeat_penalty_is_of_the_ctrl_paper(prefilled: tuple[Engine, TokenSequence]) -> None:
    """A token drawn before has its logit divided by the penalty if positive, multiplied if negative."""
    engine, sequence = prefilled
    logits = engine.logits(sequence).astype(np.float64)
    drawn: list[int] = []
    with build_sampler(engine.model, GenerationParams(temperature=0.0, repeat_penalty=1.5)) as sampler:
        for _ in range(12):
            penalized = logits.copy()
            for token in set(drawn):
                penalized[token] = logits[token] / 1.5 if logits[token] > 0 else logits[token] * 1.5
            drawn.append(sampler.sample(engine.context, engine.output_of(sequence)))
            assert drawn[-1] == int(penalized.argmax())
    assert len(set(drawn)) > 3


def test_same_seed_same_tokens(prefilled: tuple[Engine, TokenSequence]) -> None:
    engine, sequence = prefilled

    def draw(seed: int) -> list[int]:
        with build_sampler(engine.model, GenerationParams(temperature=1.0, seed=seed)) as sampler:
            return [sampler.sample(engine.context, engine.output_of(sequence)) for _ in range(30)]

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_schema_that_no_grammar_expresses_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="grammar"):
        conclusion_grammar(
            GenerationParams(json_schema='{"$ref": "#/nowhere"}'), after_mark=True, closing_tag="</CONCLUSION>"
        )


@pytest.mark.parametrize(
    ("schema", "keyword"),
    [
        ({"type": "integer", "minimum": 1}, "minimum"),
        ({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ({"anyOf": [{"type": "string"}, {"not": {"type": "null"}}]}, "not"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "z"]}, "required"),
        ({"allOf": [{"type": "string"}, {"enum": ["a"]}]}, "allOf"),
        ({"type": "string", "pattern": "^a|b$"}, "pattern"),
    ],
)
def test_what_grammars_cannot_enforce_is_refused(schema: dict[str, Any], keyword: str) -> None:
    with pytest.raises(UsageError, match=keyword):
        conclusion_grammar(
            GenerationParams(json_schema=json.dumps(schema)), after_mark=True, closing_tag="</CONCLUSION>"
        )


def test_a_schema_nested_too_deeply_is_a_usage_error() -> None:
    def nested(depth: int) -> GenerationParams:
        return GenerationParams(json_schema='{"type": "array", "items": ' * depth + "{}" + "}" * depth)

    def far_down(frames: int) -> None:
        if frames:
            far_down(frames - 1)
        else:
            conclusion_grammar(params, after_mark=True, closing_tag="</CONCLUSION>")

    with pytest.raises(UsageError, match="nested too deeply"):
        nested(100_000)
    room = sys.getrecursionlimit() - len(inspect.stack(0))
    params = nested(room // 2)  # which can be read here
    with pytest.raises(UsageError, match="nested too deeply"):
        far_down(room * 2 // 3)


def test_half_a_character_is_no_choice() -> None:
    wrong: list[dict[str, Any]] = [{"choices": ("a", "\ud83d")}, {"json_schema": '{"enum": ["\ud83d"]}'}]
    for changes in wrong:
        with pytest.raises(UsageError, match="whole characters"):
            GenerationParams(**changes)


def test_names_and_values_are_not_taken_for_keywords() -> None:
    schema = {"type": "object", "properties": {"minimum": {"enum": [{"not": 1}]}}, "required": ["minimum"]}
    assert (
        conclusion_grammar(GenerationParams(json_schema=json.dumps(schema)), after_mark=False, closing_tag="")
        is not None
    )
