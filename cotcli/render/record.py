"""Answers, scores, events and errors -> JSON values, whose form `schema` states.

There is one type of record, versioned and additive: keys are never renamed or removed within a version, new ones come
last within their object. What is not known, as in the record of an error, is null.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cotcli.answer import Answer, AnswerScore, GenerationParams, ImageInfo, ModelInfo, Timing, Usage
from cotcli.diagnosis import Report
from cotcli.errors import CotcliError, Interrupted, NoConclusionError
from cotcli.stages import STAGES, StageDelta, StageEnd, StageEvent, StageStart

SCHEMA_VERSION = 1


def answer_record(answer: Answer, id: str | None) -> dict[str, Any]:
    """The record of an answer, whole or not. `id` is the picture as the user named it."""
    error = problem_of(answer)
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": error is None,
        "id": id,
        "image": _image(answer.image),
        "question": answer.question,
        "stages": {stage: answer.stages.get(stage) for stage in STAGES},
        "answer": answer.answer,
        "raw": answer.raw,
        "finish_reason": answer.finish_reason,
        "model": _model(answer.model),
        "params": params_record(answer.params),
        "usage": _usage(answer.usage),
        "timing_ms": _timing(answer.timing),
        "error": _error(error) if error else None,
    }


def error_record(
    error: CotcliError,
    id: str | None,
    question: str | None,
    model: ModelInfo | None = None,
    params: GenerationParams | None = None,
) -> dict[str, Any]:
    """The record of a question that got no answer at all; the model and the parameters where they are known."""
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": False,
        "id": id,
        "image": None,
        "question": question,
        "stages": None,
        "answer": None,
        "raw": None,
        "finish_reason": None,
        "model": _model(model) if model else None,
        "params": params_record(params) if params else None,
        "usage": None,
        "timing_ms": None,
        "error": _error(error),
    }


def score_record(score: AnswerScore, id: str | None) -> dict[str, Any]:
    """The record of `cotcli score`; log-probabilities are natural."""
    return {
        "schema_version": SCHEMA_VERSION,
        "ok": True,
        "id": id,
        "image": _image(score.image),
        "question": score.question,
        "answer": score.answer,
        "logprob": score.logprob,
        "perplexity": score.perplexity,
        "tokens": [asdict(token) for token in score.tokens],
        "model": _model(score.model),
        "usage": _usage(score.usage),
        "timing_ms": _timing(score.timing),
        "error": None,
    }


def doctor_record(report: Report) -> dict[str, Any]:
    """The record of `cotcli doctor`; all sizes in bytes."""
    return {"schema_version": SCHEMA_VERSION, "ok": report.ok, **asdict(report)}


def event_record(event: StageEvent, id: str | None) -> dict[str, Any]:
    """A line of `--stream-json` before the last."""
    if isinstance(event, StageStart):
        return {"event": "stage_start", "id": id, "stage": event.stage}
    if isinstance(event, StageDelta):
        return {"event": "delta", "id": id, "stage": event.stage, "text": event.text}
    assert isinstance(event, StageEnd)
    return {"event": "stage_end", "id": id, "stage": event.stage, "closed": event.closed}


def result_event(record: dict[str, Any]) -> dict[str, Any]:
    """The last line of `--stream-json`, around the record of the answer or the error."""
    return {"event": "result", "id": record["id"], "record": record}


def problem_of(answer: Answer) -> CotcliError | None:
    """Why an answer is not a whole one, in words for the user; None if it is."""
    if answer.finish_reason == "interrupted":
        return Interrupted("interrupted")
    if answer.ok:
        return None
    where = f" in its {answer.cut_in}" if answer.cut_in else ""
    cut = f"the answer was cut{where} after {answer.usage.completion_tokens} tokens"
    if answer.finish_reason == "length":
        return NoConclusionError(cut, f"Allow more than --max-tokens {answer.params.max_tokens}")
    if answer.finish_reason == "stage_length":
        return NoConclusionError(cut, "Allow that stage more: --stage-max-tokens STAGE=N")
    if answer.finish_reason == "context":
        return NoConclusionError(f"{cut}: the context is full", "Give a larger one: --ctx N")
    return NoConclusionError(
        "the model ended its answer without a conclusion", "What it wrote: --show raw, or in its record raw"
    )


def params_record(params: GenerationParams) -> dict[str, Any]:
    """The parameters as a record has them."""
    return {
        "seed": params.seed,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repeat_penalty": params.repeat_penalty,
        "max_tokens": params.max_tokens,
        "stage_max_tokens": dict(params.stage_max_tokens),
        "choices": list(params.choices) if params.choices is not None else None,
        "json_schema": params.json_schema,
    }


def _image(image: ImageInfo | None) -> dict[str, Any] | None:
    return asdict(image) if image else None


def _model(model: ModelInfo) -> dict[str, Any]:
    return {
        "name": model.name,
        "quant": model.quant,
        "sha256": model.sha256,
        "device": model.device,
        "stage_format": model.stage_format,
        "pair_id": model.pair_id,
        "mmproj_id": model.mmproj_id,
        "prompt_id": model.prompt_id,
    }


def _usage(usage: Usage) -> dict[str, int]:
    return asdict(usage)


def _timing(timing: Timing) -> dict[str, float]:
    return {step: round(value, 3) for step, value in asdict(timing).items()}


def _error(error: CotcliError) -> dict[str, Any]:
    return {"code": error.code, "message": error.message, "hint": error.hint}
