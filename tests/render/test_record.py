"""Records: their keys in order, and that each kind of answer, event and error validates against the schema."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from cotcli import errors
from cotcli.answer import AnswerScore, GenerationParams, TokenScore
from cotcli.render.jsonl import JsonOutput
from cotcli.render.record import answer_record, error_record, problem_of, score_record
from cotcli.render.schema import ERROR_CODES, json_schema
from tests.render.samples import RAW, events_of, make_answer


def validate(value: Any, kind: str) -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    Draft202012Validator({**schema, "anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(json.loads(json.dumps(value)))


def test_a_whole_answer() -> None:
    record = answer_record(make_answer(), "scene.png")
    assert json.dumps(record) == json.dumps(
        {
            "schema_version": 1,
            "ok": True,
            "id": "scene.png",
            "image": {"path": "scene.png", "sha256": "0123456789abcdef" * 4, "width": 640, "height": 480},
            "question": "Subtract all red objects. How many objects are left?",
            "stages": {
                "summary": "I will remove the red objects and count the rest.",
                "caption": "From left to right:\n1. small red circle\n2. big blue square",
                "reasoning": "Small red circle out, big blue square stays (1). That leaves 1.",
                "conclusion": "1",
            },
            "answer": "1",
            "raw": RAW,
            "finish_reason": "stop",
            "model": {
                "name": "demo",
                "quant": "Q8_0",
                "sha256": "fedcba9876543210" * 4,
                "device": "CPU",
                "stage_format": "tags",
                "pair_id": "00112233" * 8,
                "mmproj_id": "0123",
                "prompt_id": "4567",
            },
            "params": {
                "seed": 7,
                "temperature": 0.6,
                "top_p": 0.9,
                "top_k": 0,
                "min_p": 0.0,
                "repeat_penalty": 1.0,
                "max_tokens": 300,
                "stage_max_tokens": {"reasoning": 100},
                "choices": None,
                "json_schema": None,
            },
            "usage": {"prompt_tokens": 21, "completion_tokens": 64, "image_tiles": 2},
            "timing_ms": {"load": 125.0, "image": 2250.4, "prompt": 31.25, "decode": 1600.0},
            "error": None,
        }
    )
    validate(record, "record")


@pytest.mark.parametrize(
    ("raw", "finish_reason", "cut_in", "code", "message"),
    [
        (RAW, "length", None, None, None),
        (RAW, "stage_length", None, None, None),
        ("just text", "stop", None, "no_conclusion", "the model ended its answer without a conclusion"),
        ("", "stop", None, "no_conclusion", "the model ended its answer without a conclusion"),
        (RAW[:200], "length", "reasoning", "no_conclusion", "the answer was cut in its reasoning after 64 tokens"),
        ("<CONCLUSION>1", "length", "conclusion", "no_conclusion", "the answer was cut in its conclusion"),
        ("<CONCLUSION>1", "stage_length", "conclusion", "no_conclusion", "the answer was cut in its conclusion"),
        ("<CONCLUSION>1", "stop", None, None, None),
        ("<SUMMARY>", "context", "summary", "no_conclusion", "the context is full"),
        (RAW, "interrupted", None, "interrupted", "interrupted"),
        ("<SUMMARY>a", "interrupted", "summary", "interrupted", "interrupted"),
    ],
)
def test_answers_that_are_not_whole(
    raw: str, finish_reason: str, cut_in: str | None, code: str | None, message: str | None
) -> None:
    answer = make_answer(raw, finish_reason=finish_reason, cut_in=cut_in)
    record = answer_record(answer, None)
    validate(record, "record")
    assert record["ok"] is answer.ok is (code is None)
    assert record["raw"] == raw
    assert (record["error"] or {}).get("code") == code
    if message is not None:
        assert message in record["error"]["message"]
    problem = problem_of(answer)
    assert (problem.exit_code if problem else 0) == {None: 0, "no_conclusion": 6, "interrupted": 130}[code]


def all_errors(base: type[errors.CotcliError] = errors.CotcliError) -> list[type[errors.CotcliError]]:
    return [base, *(found for child in base.__subclasses__() for found in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_has_a_record(kind: type[errors.CotcliError]) -> None:
    assert kind.code in ERROR_CODES
    for question in ("What?", None):
        record = error_record(kind("it broke", "mend it"), "a.png", question)
        validate(record, "record")
        assert list(record) == list(answer_record(make_answer(), None)), "errors have the same columns"
        assert record["error"] == {"code": kind.code, "message": "it broke", "hint": "mend it"}


def test_score() -> None:
    answer = make_answer()
    tokens = (TokenScore("<CONCL", 5, -0.5), TokenScore("USION>", 9, -1.5))
    score = AnswerScore("What?", answer.image, "<CONCLUSION>", tokens, answer.model, answer.usage, answer.timing)
    record = score_record(score, "scene.png")
    validate(record, "score")
    assert record["logprob"] == -2.0
    assert math.isclose(record["perplexity"], math.e)
    assert record["tokens"][1] == {"token": "USION>", "id": 9, "logprob": -1.5}


@pytest.mark.parametrize(
    "change",
    [
        {"ok": False},
        {"ok": True, "answer": ""},
        {"ok": True, "error": {"code": "image", "message": "m", "hint": None}},
        {"finish_reason": "done"},
        {"schema_version": 2},
        {"image": {"path": "a.png"}},
        {"error": {"code": "unheard_of", "message": "m", "hint": None}},
    ],
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate({**answer_record(make_answer(), "a"), **change}, "record")


def test_the_schema_allows_what_later_versions_add() -> None:
    validate({**answer_record(make_answer(), "a"), "attention": [1, 2]}, "record")


def test_stream_of_events() -> None:
    file = io.StringIO()
    output = JsonOutput(file, stream=True)
    output.start("scene.png", "What?")
    for event in events_of(RAW, 9):
        output.event(event)
    output.answer(make_answer())
    output.error(errors.ImageError("no picture"), "b.png", "What?")
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    for line in lines:
        validate(line, "event")
    assert lines[0] == {"event": "stage_start", "id": "scene.png", "stage": "summary"}
    assert lines[1] == {"event": "delta", "id": "scene.png", "stage": "summary", "text": "\nI will r"}
    ends = [line for line in lines if line["event"] == "stage_end"]
    assert ends[-1] == {"event": "stage_end", "id": "scene.png", "stage": "conclusion", "closed": True}
    caption = "".join(line["text"] for line in lines if line["event"] == "delta" and line["stage"] == "caption")
    assert lines[-2] == {"event": "result", "id": "scene.png", "record": answer_record(make_answer(), "scene.png")}
    assert caption == lines[-2]["record"]["stages"]["caption"]
    assert lines[-1]["record"]["error"]["code"] == "image"


def test_one_record_a_line_whatever_the_text() -> None:
    file = io.StringIO()
    output = JsonOutput(file)
    output.start("a", "q")
    raw = "<CONCLUSION>\x1b[31m\u2028\nü\x00</CONCLUSION>"
    for event in events_of(raw, 1):
        output.event(event)
    output.answer(make_answer(raw))
    assert file.getvalue().count("\n") == 1
    assert json.loads(file.getvalue())["answer"] == "\x1b[31m\u2028\nü\x00"


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 1.0},
        {"repeat_penalty": 0.0},
        {"seed": -1},
        {"seed": 2**32 - 1},
        {"max_tokens": 0},
        {"stage_max_tokens": (("thought", 5),)},
        {"stage_max_tokens": (("caption", 0),)},
        {"stage_max_tokens": (("caption", 1), ("caption", 2))},
        {"choices": ()},
        {"choices": ("A", "A")},
        {"choices": ("A", " ")},
        {"json_schema": "{"},
        {"json_schema": "[]"},
        {"json_schema": "{}", "choices": ("A", "B")},
    ],
)
def test_parameters_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(errors.UsageError):
        GenerationParams(**change)
