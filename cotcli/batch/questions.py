"""A file of questions -> items: JSON Lines, CSV or TSV, a row a question.

Knows the columns `image` and `question`, and `choices` and `id`, which may be absent; others are left alone. Opens no
picture. What is wrong with a row is said with its line.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cotcli.answer import GenerationParams
from cotcli.batch.items import Item, distinct, id_of
from cotcli.errors import UsageError
from cotcli.image.sources import is_url
from cotcli.printable import printable

_FORMS = ".jsonl, .ndjson, .csv or .tsv"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_NEEDED = ("image", "question")
_LONGEST_FIELD = 1 << 20


def from_questions(path: Path, params: Mapping[str, Any] | None = None) -> list[Item]:
    """The rows of a file, in its order.

    A path starts from the file's folder. A row without an id is known by its picture as the row names it; the second
    about the same picture by that and `#2`, and so on. Choices are separated by commas as in `--choices`; in JSON a
    list does too.

    Args:
        params: the fields of `GenerationParams` that hold for all rows; a row's choices must go with them.

    Raises:
        UsageError: the file cannot be read, or a row is not of this form.
    """
    shown = printable(str(path))
    form = path.suffix.lower()
    if form not in (".jsonl", ".ndjson", *_DELIMITERS):
        raise UsageError(f"{shown}: what form it has is not known", f"It ends in {_FORMS}")
    text = _read(path, shown)
    rows = _table(text, _DELIMITERS[form], shown) if form in _DELIMITERS else _lines(text, shown)
    taken: Counter[str] = Counter()
    items: list[Item] = []
    items += distinct(_item(row, path.parent, origin, taken, params or {}, items) for origin, row in rows)
    return items.copy()  # the caller's to change: every row goes on holding the whole file


def _read(path: Path, shown: str) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{shown}: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{shown}:{line}: is not UTF-8", "Save it as UTF-8, or: iconv -t UTF-8") from None


def _lines(text: str, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        origin = f"{shown}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{origin}: is not JSON ({printable(str(error))})", _form_of_line()) from None
        except RecursionError:
            raise UsageError(f"{origin}: is nested too deeply", _form_of_line()) from None
        if not isinstance(row, dict):
            raise UsageError(f"{origin}: is not a JSON object", _form_of_line())
        yield origin, row


def _form_of_line() -> str:
    return 'A line is like {"image": "a.png", "question": "How many?"}'


def _table(text: str, delimiter: str, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    # newline="" leaves the line ends within quotes as they are.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    before = 0
    while True:
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise UsageError(f"{shown}:{reader.line_num}: {error}", 'A quote within quotes is doubled: ""') from None
        origin, before = f"{shown}:{before + 1}", reader.line_num
        if not any(field.strip() for field in row):
            continue
        if header is None:
            header = [name.strip().lower() for name in row]
            _check_header(header, origin)
        elif len(row) != len(header):
            raise UsageError(
                f"{origin}: has {len(row)} fields, the first line {len(header)}",
                'A field with commas goes in quotes: "…"',
            )
        else:
            yield origin, {name: field for name, field in zip(header, row, strict=True) if field or name in _NEEDED}
    if header is None:
        raise UsageError(f"{shown}:1: has no first line with the names of the columns", _columns())


def _check_header(header: list[str], origin: str) -> None:
    for name in _NEEDED:
        if name not in header:
            raise UsageError(f"{origin}: has no column {name} among {printable(', '.join(header))}", _columns())
    [(name, count)] = Counter(header).most_common(1)
    if count > 1:
        raise UsageError(f"{origin}: has the column {printable(name)} {count} times")


def _columns() -> str:
    return "The columns are image, question and, if wanted, choices and id"


def _item(
    row: Mapping[str, Any],
    folder: Path,
    origin: str,
    taken: Counter[str],
    params: Mapping[str, Any],
    rows: Sequence[Item],
) -> Item:
    image, question = (_text(row, name, origin) for name in _NEEDED)
    choices = _choices(row.get("choices"), origin)
    if choices is not None:
        try:
            GenerationParams(**{**params, "choices": choices})
        except UsageError as error:
            raise UsageError(f"{origin}: {error.message}", error.hint) from None
    source = image if is_url(image) else folder / image
    return Item(_id(row, image, origin, taken), source, question, choices, origin, rows)


def _text(row: Mapping[str, Any], name: str, origin: str) -> str:
    value = row.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise UsageError(f"{origin}: has no {name}", _columns())
    if not isinstance(value, str):
        raise UsageError(f"{origin}: its {name} is not text", _columns())
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{origin}: holds half a character in its {name}") from None
    return value


def _choices(value: object, origin: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(",")
    if isinstance(value, list) and all(isinstance(choice, str) for choice in value):
        return tuple(choice.strip() for choice in value)
    raise UsageError(f"{origin}: choices are neither text nor a list of texts", "For example: A,B,C,D")


def _id(row: Mapping[str, Any], image: str, origin: str, taken: Counter[str]) -> str:
    value = row.get("id")
    if value is None:
        name = id_of(image) if is_url(image) else image
        taken[name] += 1
        return name if taken[name] == 1 else f"{name}#{taken[name]}"
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(row, "id", origin)
