"""Tables: every value of every record in its column, as csv and pyarrow read them."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from cotcli.answer import GenerationParams
from cotcli.batch import BatchOptions
from cotcli.batch.table import check_suffix, columns, write_table
from cotcli.errors import UsageError
from tests.batch.records import bad, good

ODD = '<CONCLUSION>"a", b;\r\n\tü 木\x00</CONCLUSION>'
PARAMS = GenerationParams(choices=("a", "b,c"), stage_max_tokens=(("caption", 3),))
RECORDS = [good("a.png", ODD), bad("b.png"), good("\udcff.png", params=PARAMS)]


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """The record with one level of nesting undone, without what is null as a whole."""
    values: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            values.update({f"{key}.{name}": inner for name, inner in value.items()})
        elif value is not None:
            values[key] = value
    return values


def test_columns_are_the_records_own() -> None:
    assert set(columns()) == set(flat(RECORDS[0])) | set(flat(RECORDS[1]))
    assert list(columns())[:6] == ["schema_version", "ok", "id", "image.path", "image.sha256", "image.width"]
    kinds = {
        name: columns()[name] for name in ("ok", "image.width", "params.temperature", "params.choices", "model.sha256")
    }
    assert kinds == {
        "ok": "boolean",
        "image.width": "integer",
        "params.temperature": "number",
        "params.choices": "string",
        "model.sha256": "string",
    }


def as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)


def test_csv() -> None:
    file = io.BytesIO()
    write_table(file, ".csv", iter(RECORDS))
    text = file.getvalue().decode("utf-8")
    assert text.partition("\r\n")[0] == ",".join(columns())
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(RECORDS)
    for row, record in zip(rows, RECORDS, strict=True):
        values = flat(record)
        for name in columns():
            expected = as_text(values.get(name)).replace("\udcff", "\\udcff")
            assert row[name] == expected, name
    assert rows[2]["params.choices"] == '["a", "b,c"]' and rows[2]["params.stage_max_tokens"] == '{"caption": 3}'


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "out.parquet"
    records = RECORDS * 700  # more than one row group
    with path.open("wb") as file:
        write_table(file, ".parquet", iter(records))
    table = parquet.read_table(path)
    assert table.column_names == list(columns())
    assert {str(field.type) for field in table.schema} == {"string", "bool", "int64", "double"}
    rows = table.to_pylist()
    assert len(rows) == len(records) and rows[: len(RECORDS)] == rows[-len(RECORDS) :]
    for row, record in zip(rows[: len(RECORDS)], RECORDS, strict=True):
        values = flat(record)
        for name in columns():
            value = values.get(name)
            if isinstance(value, (dict, list)):
                value = json.dumps(value)
            assert row[name] == (value.replace("\udcff", "\\udcff") if isinstance(value, str) else value), name


def test_without_pyarrow_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    check_suffix(Path("out.csv"))
    with pytest.raises(UsageError, match="Parquet") as caught:
        check_suffix(Path("out.parquet"))
    assert caught.value.hint == 'pip install "cotcli[parquet]"'


def test_where_records_are() -> None:
    assert BatchOptions(Path("out.jsonl")).journal == Path("out.jsonl")
    assert BatchOptions(Path("a/out.CSV")).journal == Path("a/out.CSV.jsonl")
    assert BatchOptions().journal is None
    for options in ({"output": Path("out.json")}, {"output": Path("out")}, {"overwrite": True}, {"parallel": 0}):
        with pytest.raises(UsageError):
            BatchOptions(**options)
