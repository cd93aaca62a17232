"""Records that a batch could have written."""

from __future__ import annotations

from typing import Any

from cotcli.errors import ImageError
from cotcli.render.record import answer_record, error_record
from tests.render.samples import make_answer


def good(id: str, raw: str = "<CONCLUSION>1</CONCLUSION>", **changes: Any) -> dict[str, Any]:
    return answer_record(make_answer(raw, **changes), id)


def bad(id: str) -> dict[str, Any]:
    answer = make_answer()
    return error_record(ImageError(f"{id}: empty", "Copy it again"), id, "What?", answer.model, answer.params)
