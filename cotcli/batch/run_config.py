"""What all records of one file have in common: the model, how it writes stages, the parameters, and the question.

Compares records that are there with what would be asked now. Knows no files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cotcli.answer import GenerationParams, ModelInfo
from cotcli.batch.items import Item
from cotcli.errors import UsageError
from cotcli.printable import printable
from cotcli.render.record import params_record

_LABELS = {
    "name": "model",
    "quant": "quantization",
    "sha256": "model file (SHA-256)",
    "stage_format": "stage format",
    "pair_id": "checkpoint (pair_id)",
    "mmproj_id": "vision file (mmproj_id)",
    "prompt_id": "wording of prompt and stages (prompt_id)",
}


@dataclass(frozen=True)
class RunConfig:
    """What is asked with.

    Attributes:
        model: as far as it is known; what is None is not compared.
        params: of all items, but for an item's own choices.
        question: the one of all records; None where each item has its own, and may have its own choices.
    """

    model: Mapping[str, str | None]
    params: GenerationParams
    question: str | None = None

    @classmethod
    def of(cls, info: ModelInfo, params: GenerationParams, question: str | None = None) -> RunConfig:
        """Those of a model that is loaded."""
        return cls({name: getattr(info, name) for name in _LABELS}, params, question)

    def params_of(self, item: Item) -> GenerationParams:
        """An item's parameters."""
        return self.params if item.choices is None else replace(self.params, choices=item.choices)

    def check(self, record: Mapping[str, Any], item: Item | None, file: str) -> None:
        """Compares a record in `file` with what would be asked now, as `item` if that is known.

        Raises:
            UsageError: they differ; names the field, both values, and how to go on.
        """
        for field, then, now in self._pairs(record, item):
            if then is not None and now is not None and then != now:
                what = f"{file} was made with {field} {_shown(then)}, not {_shown(now)}"
                if item is not None:
                    what += f" ({printable(item.id)})"
                raise UsageError(
                    what,
                    "Ask as before to go on with it, write to another file, or start afresh with overwrite=True",
                )

    def _pairs(self, record: Mapping[str, Any], item: Item | None) -> Iterator[tuple[str, Any, Any]]:
        """The name of each field that must agree, its value in the record, and its value now; None is not known."""
        yield "the question", record.get("question"), item.question if item else self.question
        for name, now in self.model.items():
            yield f"the {_LABELS[name]}", (record.get("model") or {}).get(name), now
        params: Mapping[str, Any] = record.get("params") or {}
        for name, value in params_record(self.params_of(item) if item else self.params).items():
            # Not given is a value here. Where each item has its own question, it may have its own choices.
            if name in params and (name != "choices" or item is not None or self.question is not None):
                yield f"the parameter {name}", _Value(params[name]), _Value(value)


@dataclass(frozen=True)
class _Value:
    """A parameter, which may be None."""

    value: Any


def _shown(value: object) -> str:
    text = value.value if isinstance(value, _Value) else value
    return printable(repr(text) if isinstance(text, str) else str(text))
