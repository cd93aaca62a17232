"""Whole answers in the formats that the bundled model was not trained on: it writes what it likes, and all that is
promised of stages, limits, grammars and text must still hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from cotcli.answer import Answer, GenerationParams
from cotcli.engine import Decode, Engine, EngineOptions
from cotcli.generate import Reasoner, Request
from cotcli.registry import resolve
from cotcli.shapes.scenes import HELD_OUT_SEED, draw, make_scene
from cotcli.specs import specs
from cotcli.stages import STAGES, StageDelta, StageEnd, StageEvent, StageStart

PICTURE = draw(make_scene(7 * HELD_OUT_SEED))
QUESTION = "How many objects are there?"
GREEDY = GenerationParams(temperature=0.0, max_tokens=200)
HOT = GenerationParams(temperature=5.0, top_p=1.0, max_tokens=600)
TURNS = specs()["llamav-o1"].turns
SECTIONS = specs()["mulberry"].sections


def demo(**changes: Any) -> Reasoner:
    model = resolve("demo")
    spec = replace(model.spec, **changes)
    options = EngineOptions(threads=1, context_length=1024, max_sequences=2)
    return Reasoner(replace(model, spec=spec), options)


@pytest.fixture(scope="module")
def turns() -> Iterator[Reasoner]:
    with demo(stage_format="turns", turns=TURNS, bos_count=2) as model:
        yield model


@pytest.fixture(scope="module")
def sections() -> Iterator[Reasoner]:
    with demo(stage_format="sections", sections=SECTIONS, prompt=specs()["mulberry"].prompt) as model:
        yield model


def ask(model: Reasoner, params: GenerationParams, **overrides: Any) -> tuple[list[StageEvent], Answer]:
    *events, answer = model.stream(PICTURE, QUESTION, params, **overrides)
    assert isinstance(answer, Answer)
    return [event for event in events if isinstance(event, StageEvent)], answer


def check_turns(events: list[StageEvent], answer: Answer) -> None:
    """Each stage once, in order; `raw` is all that was written, with a blank line between turns."""
    begun = [event.stage for event in events if isinstance(event, StageStart)]
    assert tuple(begun) == STAGES[: len(begun)]
    assert [event.stage for event in events if isinstance(event, StageEnd)] == begun
    assert "".join(event.text for event in events if isinstance(event, StageDelta)) == answer.raw
    written = {
        stage: "".join(event.text for event in events if isinstance(event, StageDelta) and event.stage == stage)
        for stage in begun
    }
    assert answer.raw == "\n\n".join(written.values())
    assert answer.stages == {stage: text.strip() for stage, text in written.items()}


def watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Fills with the tokens that passes append, in their order."""
    tokens: list[int] = []
    advance = Engine.advance

    def watch(self: Engine, requests: Sequence[Decode], *, every: bool = False) -> list[int]:
        counts = advance(self, requests, every=every)
        for (_, ahead), count in zip(requests, counts, strict=True):
            tokens.extend(ahead[:count])
        return counts

    monkeypatch.setattr(Engine, "advance", watch)
    return tokens


def test_what_goes_in_is_one_conversation_of_four_turns(turns: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against Llama 3's chat template rendered by hand; nothing is read twice."""
    went_in = watched(monkeypatch)
    events, answer = ask(turns, GREEDY, stage_max_tokens=tuple((stage, 20) for stage in STAGES[:3]), max_tokens=90)
    check_turns(events, answer)
    assert list(answer.stages) == list(STAGES)
    written = answer.raw.split("\n\n", 3)
    expected = "<|begin_of_text|>" * 2
    for turn, text in zip(TURNS, ["".join(_of(events, stage)) for stage in STAGES], strict=True):
        said = turn.prompt.replace("{question}", QUESTION)
        image = "<|image|>" if turn is TURNS[0] else ""
        expected += f"<|start_header_id|>user<|end_header_id|>\n\n{image}{said}<|eot_id|>"
        expected += f"<|start_header_id|>assistant<|end_header_id|>\n\n{text}"
        expected += "<|eot_id|>" if turn is not TURNS[-1] else ""
    assert len(written) == 4
    model = turns.engine.model
    assert went_in.count(turns.engine.image_token) == 1
    texts = ["<|image|>" if token == turns.engine.image_token else _text(turns, token) for token in went_in]
    assert "".join(texts) == expected
    # Questions are plain text and their tokens those of the text alone, as in a prompt of one turn.
    for turn in TURNS[1:]:
        tokens = model.tokenize(turn.prompt)
        assert any(went_in[at : at + len(tokens)] == tokens for at in range(len(went_in)))
    assert answer.usage.prompt_tokens + answer.usage.completion_tokens == len(went_in)


def _text(model: Reasoner, token: int) -> str:
    return model.engine.model.token_bytes(token, special=True).decode()


def _of(events: list[StageEvent], stage: str) -> list[str]:
    return [event.text for event in events if isinstance(event, StageDelta) and event.stage == stage]


def test_turns_end_as_the_model_ends_them(turns: Reasoner) -> None:
    """The bundled model answers each question with all its stages at once, then ends its turn."""
    events, answer = ask(turns, GREEDY, max_tokens=900)
    check_turns(events, answer)
    if answer.finish_reason == "stop":
        assert list(answer.stages) == list(STAGES) and answer.ok
    else:
        assert answer.finish_reason in ("length", "context")


def test_a_limit_in_the_middle_of_the_turns(turns: Reasoner) -> None:
    events, answer = ask(turns, GREEDY, stage_max_tokens=(("summary", 5),), max_tokens=30)
    check_turns(events, answer)
    assert (answer.finish_reason, answer.cut_in, list(answer.stages)) == ("length", "caption", ["summary", "caption"])
    assert answer.usage.completion_tokens == 30 and not answer.ok


def test_turns_that_do_not_fit(turns: Reasoner) -> None:
    long = "why "
    while len(turns.prompt(long, None)) < 930:
        long += "why " * 5
    *events, answer = turns.stream(PICTURE, long, GREEDY, stage_max_tokens=tuple((stage, 30) for stage in STAGES))
    assert isinstance(answer, Answer)
    check_turns([event for event in events if isinstance(event, StageEvent)], answer)
    assert answer.finish_reason == "context" and "conclusion" not in answer.stages
    assert 900 < answer.usage.prompt_tokens + answer.usage.completion_tokens <= 1024


@pytest.mark.parametrize("seed", range(3))
def test_the_conclusion_s_turn_is_bound(turns: Reasoner, seed: int) -> None:
    limits = tuple((stage, 15) for stage in STAGES[:3])
    events, answer = ask(turns, HOT, seed=seed, stage_max_tokens=limits, choices=("A", "dark blue"))
    check_turns(events, answer)
    assert answer.answer in ("A", "dark blue") and answer.ok
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    _, answer = ask(turns, HOT, seed=seed, stage_max_tokens=limits, json_schema=json.dumps(schema))
    assert isinstance(json.loads(answer.answer)["n"], int)


def test_sections_that_are_never_written_lose_no_text(sections: Reasoner) -> None:
    events, answer = ask(sections, GREEDY)
    assert answer.raw and "".join(event.text for event in events if isinstance(event, StageDelta)) == answer.raw
    assert answer.stages == {} and not answer.ok
    assert answer.usage.prompt_tokens > len(QUESTION)


@pytest.mark.parametrize("seed", range(3))
def test_a_conclusion_that_is_owed_gets_its_heading(sections: Reasoner, seed: int) -> None:
    """So hot that it soon happens to end its turn."""
    _, answer = ask(sections, HOT, seed=seed, choices=("A", "dark blue"))
    if answer.finish_reason == "stop":
        assert answer.answer in ("A", "dark blue") and answer.ok
        assert answer.raw.rpartition("\n\n### The final answer is:")[2].strip() == answer.answer
    else:
        assert answer.finish_reason in ("length", "context")


def test_limits_write_the_next_heading(sections: Reasoner) -> None:
    """From the caption on, the model being made to begin it."""
    model = sections.engine.model
    seen: list[str] = []
    for choices in (None, ("A", "dark blue")):
        writer = _begun(sections, "### Image Description:\n", choices)
        events = _written(sections, writer.write())
        parser = writer.parser
        headings = [section.heading for section in SECTIONS if not section.kept]
        unmarked = parser.raw
        for heading in headings:
            unmarked = unmarked.replace(heading, "", 1)
        # The line break after the first heading came before `write`.
        assert "\n" + "".join(event.text for event in events if isinstance(event, StageDelta)) == unmarked
        places = [parser.raw.find(heading) for heading in headings]
        assert places == sorted(places) and places[0] == 0
        assert list(parser.stages) == list(STAGES) and writer.finish_reason == "stage_length"
        if choices:
            assert parser.answer in choices and writer.cut_in is None
        seen.append(parser.raw)
    assert model.tokenize(seen[0]) != model.tokenize(seen[1])


def _begun(model: Reasoner, text: str, choices: tuple[str, ...] | None) -> Any:
    from cotcli.writer import AnswerWriter

    params = GenerationParams(
        temperature=0.0, max_tokens=400, choices=choices, stage_max_tokens=tuple((stage, 12) for stage in STAGES)
    )
    sequence = model.engine.sequence()
    model.engine.prefill(sequence, model.prompt(QUESTION, None))
    writer = AnswerWriter(model.engine, sequence, model._spec.stages, params, lambda *_: None)
    _written(model, writer._force(text))
    return writer


def _written(model: Reasoner, writing: Iterator[StageEvent | Decode]) -> list[StageEvent]:
    events: list[StageEvent] = []
    for item in writing:
        if isinstance(item, Decode):
            model.engine.prefill(*item)
            if item.sequence.length >= model.engine.context_length:
                break
        else:
            events.append(item)
    return events


def test_formats_together_are_as_alone(turns: Reasoner) -> None:
    limits = tuple((stage, 12) for stage in STAGES)
    requests = [
        Request(PICTURE, question, replace(GREEDY, stage_max_tokens=limits), key=question)
        for question in (QUESTION, "Is there a star?", "What is the leftmost object?")
    ]
    for request, item in turns.stream_all(requests, 2):
        if isinstance(item, Answer):
            alone = turns.ask(request.image, request.question, request.params)
            assert (item.raw, item.stages, item.usage) == (alone.raw, alone.stages, alone.usage)
            assert item.finish_reason == alone.finish_reason == "stage_length"
