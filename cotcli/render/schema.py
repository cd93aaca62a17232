"""The JSON Schema (2020-12) of answers, scores and events as JSON; `cotcli schema` prints it.

Objects are open: a later minor version may add keys, none may be renamed or removed within `schema_version` 1.
"""

from __future__ import annotations

import json
import re
from typing import Any

from cotcli.answer import FINISH_REASONS, MAX_SEED
from cotcli.render.record import SCHEMA_VERSION
from cotcli.stages import STAGES

ERROR_CODES = (
    "internal",
    "usage",
    "image",
    "model",
    "model_not_found",
    "hub",
    "checkpoint",
    "resource",
    "no_conclusion",
    "interrupted",
)


def _object(description: str, /, **properties: Any) -> dict[str, Any]:
    """An open object whose stated properties are all required."""
    return {
        "description": description,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


_STRING = {"type": "string"}
_TEXT_OR_NULL = {"type": ["string", "null"]}
_COUNT = {"type": "integer", "minimum": 0}
_MILLISECONDS = {"type": "number", "minimum": 0}
_STAGE = {"enum": list(STAGES)}
_SHA256 = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_VERSION = {"const": SCHEMA_VERSION}
_ID = {
    "description": "the picture as it was named; in a batch, its path in the folder that was named, or the row's id",
    **_TEXT_OR_NULL,
}

_IMAGE = _object(
    "the picture; size in pixels, upright",
    path=_STRING,
    sha256={"description": "of the picture's bytes", **_SHA256},
    width={"type": "integer", "minimum": 1},
    height={"type": "integer", "minimum": 1},
)
_MODEL = _object(
    "the model that answered",
    name=_STRING,
    quant=_STRING,
    sha256={"description": "of the language file, where it is known", **_nullable(_SHA256)},
    device=_STRING,
    stage_format={"description": "how the model writes stages", **_STRING},
    pair_id={"description": "of the checkpoint, as both files have it", **_TEXT_OR_NULL},
    mmproj_id={"description": "of the types of the vision file's weights", **_TEXT_OR_NULL},
    prompt_id={"description": "of the wording of prompt and stages", **_TEXT_OR_NULL},
)
_STAGES = _object(
    "the text of each stage, trimmed; null for a stage that was not written",
    **dict.fromkeys(STAGES, _TEXT_OR_NULL),
)
_PARAMS = _object(
    "the parameters of generation",
    seed={"type": "integer", "minimum": 0, "maximum": MAX_SEED},
    temperature={"type": "number", "minimum": 0},
    top_p={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    top_k=_COUNT,
    min_p={"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    repeat_penalty={"type": "number", "exclusiveMinimum": 0},
    max_tokens={"type": "integer", "minimum": 1},
    stage_max_tokens={
        "type": "object",
        "propertyNames": _STAGE,
        "additionalProperties": {"type": "integer", "minimum": 1},
    },
    choices=_nullable({"type": "array", "items": _STRING, "minItems": 1}),
    json_schema={"description": "the JSON Schema given with --schema, as text", **_TEXT_OR_NULL},
)
_USAGE = _object(
    "tokens read (a picture counts as one) and written; tiles the picture was cut into",
    prompt_tokens=_COUNT,
    completion_tokens=_COUNT,
    image_tiles=_COUNT,
)
_TIMING = _object(
    "wall time in milliseconds; load is 0 for a model that was loaded before",
    load=_MILLISECONDS,
    image=_MILLISECONDS,
    prompt=_MILLISECONDS,
    decode=_MILLISECONDS,
)
_ERROR = _object("what went wrong", code={"enum": list(ERROR_CODES)}, message=_STRING, hint=_TEXT_OR_NULL)

_RECORD = {
    **_object(
        "one question about one picture",
        schema_version=_VERSION,
        ok={"type": "boolean"},
        id=_ID,
        image=_nullable(_ref("image")),
        question=_TEXT_OR_NULL,
        stages=_nullable(_ref("stages")),
        answer={"description": "the conclusion, trimmed; empty if there is none", **_TEXT_OR_NULL},
        raw={"description": "all that the model wrote, tags included", **_TEXT_OR_NULL},
        finish_reason={"enum": [*FINISH_REASONS, None]},
        model=_nullable(_ref("model")),
        params=_nullable(_ref("params")),
        usage=_nullable(_ref("usage")),
        timing_ms=_nullable(_ref("timing")),
        error=_nullable(_ref("error")),
    ),
    "if": {"properties": {"ok": {"const": True}}},
    "then": {"properties": {"answer": {"type": "string", "minLength": 1}, "error": {"type": "null"}}},
    "else": {"properties": {"error": _ref("error")}},
}
_SCORE = _object(
    "how likely a model finds a given answer; natural logarithms",
    schema_version=_VERSION,
    ok={"const": True},
    id=_ID,
    image=_nullable(_ref("image")),
    question=_STRING,
    answer=_STRING,
    logprob={"description": "sum over the tokens", "type": "number", "maximum": 0},
    perplexity={"type": "number", "minimum": 1},
    tokens={
        "type": "array",
        "items": _object("one token of the answer", token=_STRING, id=_COUNT, logprob={"type": "number", "maximum": 0}),
    },
    model=_ref("model"),
    usage=_ref("usage"),
    timing_ms=_ref("timing"),
    error={"type": "null"},
)
_EVENT = {
    "description": "a line of --stream-json",
    "oneOf": [
        _object("a stage begins", event={"const": "stage_start"}, id=_ID, stage=_STAGE),
        _object(
            "text as it comes; stage is null outside any stage",
            event={"const": "delta"},
            id=_ID,
            stage={"enum": [*STAGES, None]},
            text={"type": "string", "minLength": 1},
        ),
        _object(
            "a stage is over; closed is false if it was cut short",
            event={"const": "stage_end"},
            id=_ID,
            stage=_STAGE,
            closed={"type": "boolean"},
        ),
        _object("the last line", event={"const": "result"}, id=_ID, record=_ref("record")),
    ],
}
_BYTES = {"type": "integer", "minimum": 0}
_ERROR_SIZE = {"description": "relative, in the Euclidean norm", "type": ["number", "null"], "minimum": 0}
_SELF_TEST = _object(
    "the bundled model on one device, against stored values; null where it failed before",
    device=_STRING,
    ok={"type": "boolean"},
    states_error=_ERROR_SIZE,
    logits_error=_ERROR_SIZE,
    same_answer={"type": ["boolean", "null"]},
    seconds={"type": "number", "minimum": 0},
    problem=_TEXT_OR_NULL,
)
_DOCTOR = _object(
    "what there is to run on and with, and whether it works; sizes in bytes",
    schema_version=_VERSION,
    ok={"type": "boolean"},
    versions=_object(
        "null for what cannot be loaded",
        cotcli=_STRING,
        python=_STRING,
        platform=_STRING,
        **dict.fromkeys(("llama_cpp_python", "llama_cpp", "ggml", "ggml_commit"), _TEXT_OR_NULL),
    ),
    cpu=_nullable(
        _object(
            "null where llama.cpp cannot be loaded",
            name=_STRING,
            features={"type": "array", "items": _STRING},
            threads={"type": "integer", "minimum": 1},
            total=_BYTES,
            available=_BYTES,
            limited_by={"enum": ["machine", "control group"]},
        )
    ),
    devices={
        "type": "array",
        "items": _object(
            "memory is 0 where the device does not tell; offload: layers go there unless told otherwise",
            name=_STRING,
            description=_STRING,
            type={"enum": ["cpu", "gpu", "igpu", "accelerator", "meta"]},
            backend=_STRING,
            total=_BYTES,
            free=_BYTES,
            offload={"type": "boolean"},
            self_test=_nullable(_SELF_TEST),
        ),
    },
    models={
        "type": "array",
        "items": _object(
            "one installed pair, as it would be loaded with nothing but its name",
            name=_STRING,
            quant=_STRING,
            bytes=_BYTES,
            files={"description": "against their checksums", "enum": ["ok", "differs", "not checked", "unknown"]},
            gpu_layers={"description": "what --gpu-layers auto chooses", "type": ["integer", "null"], "minimum": 0},
            all_layers={"type": ["integer", "null"], "minimum": 1},
            notes={"type": "array", "items": _STRING},
            memory={
                "type": "array",
                "items": _object(
                    "in one place: what must be there, and what stays in mapped files",
                    place=_STRING,
                    resident=_BYTES,
                    mapped=_BYTES,
                ),
            },
        ),
    },
    default=_nullable(
        _object(
            "the model that is taken when none is named; hint: how to install it",
            name=_STRING,
            installed={"type": "boolean"},
            hint=_TEXT_OR_NULL,
        )
    ),
    caches={
        "type": "array",
        "items": _object(
            "null: not there", name=_STRING, folder=_STRING, bytes={**_BYTES, "type": ["integer", "null"]}
        ),
    },
    paths={"type": "array", "items": _object("a place", name=_STRING, path=_STRING, exists={"type": "boolean"})},
    problems={
        "type": "array",
        "items": _object(
            "what is wrong and the next step", message=_STRING, hint=_TEXT_OR_NULL, exit_code={"type": "integer"}
        ),
    },
)


KINDS = {
    "record": "an answer: a line of --json, and of `cotcli batch`",
    "score": "a line of `cotcli score --json`",
    "event": "a line of --stream-json",
    "doctor": "what `cotcli doctor --json` prints",
}
"""What stands alone on a line."""
_DEFINITIONS: dict[str, dict[str, Any]] = {
    "record": {"title": "record", **_RECORD},
    "score": {"title": "score", **_SCORE},
    "event": {"title": "event", **_EVENT},
    "doctor": {"title": "doctor", **_DOCTOR},
    "image": _IMAGE,
    "stages": _STAGES,
    "model": _MODEL,
    "params": _PARAMS,
    "usage": _USAGE,
    "timing": _TIMING,
    "error": _ERROR,
}


def json_schema(kind: str | None = None) -> dict[str, Any]:
    """The schema of one of `KINDS`, or of all of them."""
    if kind is None:
        description = "; ".join(f"{name}: {what}" for name, what in KINDS.items())
        one_of: dict[str, Any] = {"anyOf": [_ref(name) for name in KINDS]}
        names = list(_DEFINITIONS)
    else:
        description, one_of = KINDS[kind], _ref(kind)
        names = _needed(kind)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "cotcli" if kind is None else f"cotcli {kind}",
        "description": description,
        **one_of,
        "$defs": {name: _DEFINITIONS[name] for name in names},
    }


def _needed(name: str) -> list[str]:
    """A definition and all that it refers to, at any depth."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += re.findall(r"#/\$defs/(\w+)", json.dumps(_DEFINITIONS[name]))
    return [name for name in _DEFINITIONS if name in found]
