"""Files of questions -> items: what spreadsheets and scripts write, and what is wrong with a row, by its line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from cotcli.batch import Item, from_questions
from cotcli.batch.items import with_their_files
from cotcli.errors import UsageError

ROWS = [
    ("a.png", 'What does the "big" sign say?', "", "one"),
    ("sub/b c.png", "Which bar,\nif any, is highest?", "A, B,C", "2"),
    ("/data/ü.png", "Wie viele Bäume? 木は何本？", "", "drei"),
    ("https://example.org/x.png", "tab\there; semicolon", "yes,no", "x"),
]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def expected(folder: Path) -> list[tuple[Any, ...]]:
    return [
        ("one", folder / "a.png", ROWS[0][1], None),
        ("2", folder / "sub" / "b c.png", ROWS[1][1], ("A", "B", "C")),
        ("drei", Path("/data/ü.png"), ROWS[2][1], None),
        ("x", "https://example.org/x.png", ROWS[3][1], ("yes", "no")),
    ]


def fields(items: list[Item]) -> list[tuple[Any, ...]]:
    return [(item.id, item.source, item.question, item.choices) for item in items]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize(("name", "dialect"), [("q.csv", "excel"), ("Q.TSV", "excel-tab")])
def test_tables(tmp_path: Path, name: str, dialect: str, ends: str, bom: bytes) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, dialect, lineterminator=ends)
    writer.writerow(("image", "question", "choices", "id"))
    writer.writerows(ROWS)
    assert fields(from_questions(write(tmp_path, name, bom + text.getvalue().encode()))) == expected(tmp_path)


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"], ids=["plain", "BOM"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\n\n"], ids=["LF", "CRLF", "blank"])
def test_json_lines(tmp_path: Path, ends: str, bom: bytes) -> None:
    rows: list[dict[str, Any]] = [
        {"image": image, "question": question, "choices": choices.split(",") if choices else None, "id": id}
        for image, question, choices, id in ROWS
    ]
    rows[1]["id"] = 2
    rows[3]["choices"] = "yes, no"
    rows[0]["answer"] = "left alone"
    text = ends.join(json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows))
    assert fields(from_questions(write(tmp_path, "q.jsonl", bom + text.encode()))) == expected(tmp_path)


def test_ids_of_rows_without_one(tmp_path: Path) -> None:
    text = "Question , IMAGE,note\nOne?,a.png,x\nTwo?,a.png,\nOne?,b.png,\n\n,,\nThree?,a.png,\nOne?,a.png,\n"
    items = from_questions(write(tmp_path, "q.csv", text))
    assert [(item.id, item.question) for item in items] == [
        ("a.png", "One?"), ("a.png#2", "Two?"), ("b.png", "One?"), ("a.png#3", "Three?"), ("a.png#4", "One?"),
    ]  # fmt: skip
    assert [item.origin.rpartition(":")[2] for item in items] == ["2", "3", "4", "7", "8"]


def test_nothing_but_a_header_is_no_question(tmp_path: Path) -> None:
    assert from_questions(write(tmp_path, "q.csv", "image,question\r\n")) == []
    assert from_questions(write(tmp_path, "q.jsonl", "")) == []


@pytest.mark.parametrize(
    ("name", "text", "line", "problem"),
    [
        ("q.csv", "", 1, "no first line"),
        ("q.csv", "image;question\na.png;One?\n", 1, "no column image"),
        ("q.csv", "image,text\na.png,One?\n", 1, "no column question among image, text"),
        ("q.csv", "image,question,image\n", 1, "column image 2 times"),
        ("q.csv", "image,question\na.png,One, two?\n", 2, "has 3 fields, the first line 2"),
        ("q.csv", "image,question\na.png\n", 2, "has 1 fields"),
        ("q.csv", 'image,question\na.png,"One\ntwo?"\nb.png\n', 4, "has 1 fields"),
        ("q.csv", "image,question\na.png,One?\n,Two?\n", 3, "has no image"),
        ("q.csv", "image,question\na.png,\n", 2, "has no question"),
        ("q.csv", "image,question\na.png, \n", 2, "has no question"),
        ("q.csv", 'image,question\na.png,"One? \n', 2, "unexpected end"),
        ("q.tsv", 'image\tquestion\na.png\t"Stop" signs?\n', 2, "expected after"),
        ("q.csv", b"image,question\na.png,One?\nb.png,caf\xe9?\n", 3, "is not UTF-8"),
        ("q.csv", "image,question,choices\na.png,One?,\"A,,B\"\n", 2, "choices must be"),
        ("q.csv", "image,question,choices\na.png,One?,\"A,A\"\n", 2, "choices must be"),
        ("q.csv", "image,question,id\na.png,One?,1\nb.png,One?,2\nc.png,One?,1\n", 4, "has the id of"),
        ("q.csv", "image,question,id\na.png,One?,b.png\nb.png,One?,\n", 3, "has the id of"),
        ("q.jsonl", '{"image": "a.png", "question": "One?"}\n{"image": "a.png"\n', 2, "is not JSON"),
        ("q.jsonl", '\n["a.png", "One?"]\n', 2, "is not a JSON object"),
        ("q.jsonl", '{"image": "a.png"}\n', 1, "has no question"),
        ("q.jsonl", '{"image": 3, "question": "One?"}\n', 1, "its image is not text"),
        ("q.jsonl", '{"image": "a.png", "question": "\\ud83d"}\n', 1, "half a character"),
        ("q.jsonl", '{"image": "a.png", "question": "One?", "choices": 3}\n', 1, "choices are neither"),
        ("q.jsonl", '{"image": "a.png", "question": "One?", "choices": ["\\ud83d", "b"]}\n', 1, "whole characters"),
        ("q.jsonl", "[" * 100_000 + "]" * 100_000, 1, "is nested too deeply"),
        ("q.jsonl", '{"image": "a.png", "question": "One?", "choices": []}\n', 1, "choices must be"),
        ("q.jsonl", '{"image": "a.png", "question": "One?", "id": true}\n', 1, "its id is not text"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, name: str, text: str | bytes, line: int, problem: str) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(UsageError) as caught:
        from_questions(path)
    assert caught.value.message.startswith(f"{path}:{line}: ")
    assert problem in caught.value.message
    assert "\n" not in caught.value.message


def test_choices_of_a_row_exclude_a_schema(tmp_path: Path) -> None:
    path = write(tmp_path, "q.csv", 'image,question,choices\na.png,One?,\nb.png,One?,"A,B"\n')
    assert len(from_questions(path, {"choices": ("C", "D")})) == 2
    with pytest.raises(UsageError, match=r"q\.csv:3: json_schema must be given without choices"):
        from_questions(path, {"json_schema": "{}"})


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name, problem in (("none.csv", "No such file"), ("q.xlsx", "what form"), ("q", "what form")):
        with pytest.raises(UsageError, match=problem):
            from_questions(tmp_path / name)


def test_other_rows_that_two_files_know_by_one_id_are_left_out(tmp_path: Path) -> None:
    """Rows of each may be asked without the rest; what a record of a shared id would be about, nobody could tell."""
    texts = {
        "a.csv": "image,question,id\n1.png,Left?,left\n2.png,How many?,both\n3.png,Same?,same\n4.png,Yes?,yes\n",
        "b.csv": "image,question,id\n2.png,Which?,both\n5.png,Right?,right\n3.png,Same?,same\n6.png,No?,yes\n",
    }
    first, second = (from_questions(write(tmp_path, name, text)) for name, text in texts.items())
    chosen = [first[0], second[1], first[3]]
    assert [(item.id, item.question) for item in with_their_files(chosen)] == [
        ("left", "Left?"),
        ("same", "Same?"),
        ("yes", "Yes?"),
        ("right", "Right?"),
    ]
    assert with_their_files(first[1:2]) == first
