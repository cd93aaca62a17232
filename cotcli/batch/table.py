"""Records -> a table, CSV or Parquet: one row a record, in their order, nested keys as columns with dotted names.

Columns and their types are those of `cotcli.render.schema`, so tables of different batches fit together. What has no
fixed keys, such as a list of choices, is JSON text. Knows nothing about where records come from.
"""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from cotcli.errors import UsageError
from cotcli.render.schema import json_schema

SUFFIXES = (".csv", ".parquet")
_ROWS = 1000  # of a Parquet row group: a few MB of text
_FIXED = ("image", "stages", "model", "params", "usage", "timing_ms", "error")
_TYPES = {"boolean": "bool_", "integer": "int64", "number": "float64", "string": "string"}


def check_suffix(path: Path) -> None:
    """Raises UsageError if what a table of this kind needs is not installed."""
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UsageError(f"{path}: to write Parquet takes an extra", 'pip install "cotcli[parquet]"')


def write_table(file: BinaryIO, suffix: str, records: Iterable[dict[str, Any]]) -> None:
    """Writes a whole table.

    CSV is UTF-8 as in RFC 4180, with empty fields for null. Half characters, as in the paths of files of odd bytes,
    are escaped as in JSON.
    """
    if suffix == ".csv":
        _write_csv(file, records)
    else:
        _write_parquet(file, records)


def columns() -> dict[str, str]:
    """The name of each column, and its type in JSON Schema; what is nested otherwise counts as a string."""
    definitions = json_schema()["$defs"]
    names: dict[str, str] = {}
    for key, schema in definitions["record"]["properties"].items():
        if key not in _FIXED:
            names[key] = _type(schema)
            continue
        [reference] = [form["$ref"] for form in schema["anyOf"] if "$ref" in form]
        nested = definitions[reference.rpartition("/")[2]]["properties"]
        names.update({f"{key}.{name}": _type(inner) for name, inner in nested.items()})
    return names


def _type(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return "integer"  # the version
    types = [schema.get("type"), *(form.get("type") for form in schema.get("anyOf", ()))]
    found = [name for one in types for name in (one if isinstance(one, list) else [one])]
    return next((name for name in found if name in _TYPES), "string")


def _row(record: dict[str, Any], names: Iterable[str]) -> Iterator[Any]:
    for name in names:
        key, dot, inner = name.partition(".")
        value = record.get(key)
        if dot and value is not None:
            value = value.get(inner)
        if isinstance(value, (dict, list)):
            value = json.dumps(value, ensure_ascii=False)
        yield value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value


def _write_csv(file: BinaryIO, records: Iterable[dict[str, Any]]) -> None:
    names = columns()
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text)
    writer.writerow(names)
    for record in records:
        writer.writerow(str(value).lower() if isinstance(value, bool) else value for value in _row(record, names))
    text.detach()  # flushes, and leaves the file open


def _write_parquet(file: BinaryIO, records: Iterable[dict[str, Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    names = columns()
    schema = pyarrow.schema([(name, getattr(pyarrow, _TYPES[kind])()) for name, kind in names.items()])
    remaining = iter(records)
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        while rows := [list(_row(record, names)) for record in islice(remaining, _ROWS)]:
            columns_of = zip(zip(*rows, strict=True), schema.types, strict=True)
            arrays = [pyarrow.array(values, type=kind) for values, kind in columns_of]
            writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
