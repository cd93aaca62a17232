"""`python -m training.check`: others' answers against what was written for them, from the files alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.cli.process import cotcli
from training import check, dataset
from training.held_out import held_out, write_folder

ITEMS = held_out(16, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "held out"
    write_folder(ITEMS, folder)
    return folder


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def told(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    check.main([str(argument) for argument in arguments])
    return [re.sub(" +", " ", line).strip() for line in capsys.readouterr().out.splitlines()]


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        check.main([str(argument) for argument in arguments])
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert not shown.out and "Traceback" not in shown.err
    return shown.err.splitlines()[-1]


def raws() -> list[dict[str, Any]]:
    return [{"id": f"{index:04d}", "raw": item.reference} for index, item in enumerate(ITEMS)]


def test_right_answers_and_the_stage_at_which_others_went_wrong(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = raws()
    records[0]["raw"] = "nothing"
    records[9]["raw"] = re.sub(r"<CONCLUSION>.*<", "<CONCLUSION>none<", records[9]["raw"])
    records[12]["raw"] = re.sub(r"<SUMMARY>.*<", "<SUMMARY>I will sing.<", records[12]["raw"])
    del records[15]
    lines = told(capsys, folder, write(tmp_path / "a.jsonl", records), "--show-wrong", 5)
    assert lines[:5] == [
        "right form summary caption reasoning conclusion lucky",
        "all 13 / 15 86.7% 1 0 0 0 1 1",
        "count 1 / 2 50.0% 1 0 0 0 0 0",
        "subtract 1 / 2 50.0% 0 0 0 0 1 0",
        "compare 2 / 2 100.0% 0 0 0 0 0 0",
    ]
    assert lines[5] == "exists 2 / 2 100.0% 0 0 0 0 0 0" and lines[6] == "attribute 2 / 2 100.0% 0 0 0 0 0 1"
    assert lines[9:11] == ["absent 1 / 1 100.0% 0 0 0 0 0 0", "without an answer: 1"]
    assert lines[11].startswith("0000: ") and "the stage SUMMARY is missing; the truth is " in lines[11]
    assert lines[12].startswith("0009: ") and '"none"' in lines[12] and len(lines) == 13


def test_a_batch_of_cotcli(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the folder to the verdict, in the commands that the README of this package gives."""
    out = tmp_path / "answers.jsonl"
    done = cotcli("batch", "--questions", folder / "questions.jsonl", "-m", "demo", "-o", out, "--threads", 1)
    assert done.code == 0, done.err
    records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    lines = told(capsys, folder, out)
    right = sum(
        record["answer"].casefold() in (item.question.truth.casefold(), item.question.value.casefold())
        for record, item in zip(records, ITEMS, strict=True)
    )
    assert lines[1].startswith(f"all {right} / 16 ") and right > 8


def test_records_are_judged_by_the_answer_that_cotcli_parsed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [
        {**record, "ok": True, "question": item.question.text, "answer": item.question.truth}
        for record, item in zip(raws(), ITEMS, strict=True)
    ]
    records[1]["raw"] = records[1]["raw"].removesuffix("</CONCLUSION>")
    records[2] |= {"ok": False, "answer": "", "raw": records[2]["raw"].partition("<CONCLUSION>")[0]}
    records[3] |= {"ok": False, "answer": None, "raw": None}
    records[4]["id"] = "pictures/0004.png"
    records[5]["id"] = "0005.png#2"
    lines = told(capsys, folder, write(tmp_path / "a.jsonl", records))
    assert lines[1] == "all 14 / 15 93.3% 1 0 0 0 0 1" and lines[-1] == "without an answer: 1"


def test_pictures_with_several_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "set"
    dataset.main([str(folder), "--scenes", "4", "--seed", "1", "--questions", "3"])
    capsys.readouterr()
    records = []
    for line in (folder / "train.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        turns = record["conversations"]
        records += [
            {"id": record["image"], "question": human["value"], "raw": gpt["value"]}
            for human, gpt in zip(turns[::2], turns[1::2], strict=True)
        ]
    assert told(capsys, folder, write(tmp_path / "a.jsonl", records))[1] == "all 12 / 12 100.0% 0 0 0 0 0 0"
    assert told(capsys, folder, write(tmp_path / "a.jsonl", records[:5]))[-1] == "without an answer: 7"
    del records[4]["question"]
    assert "line 5: image/000001.png has 3 questions" in refused(capsys, folder, write(tmp_path / "a.jsonl", records))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"raw": "x"}', "line 1: an answer has an id"),
        ('{"id": "0099", "raw": "x"}', "line 1: 0099 is no picture of this folder"),
        ('{"id": "0000", "question": "Why?", "raw": "x"}', "line 1: 0000 has no such question: Why?"),
        ('{"id": "0000", "raw": "x"}\n{"id": "0000.png", "raw": "x"}', "line 2: a second answer to the question of "),
        ('{"id": ', "line 1: not JSON"),
        ("[]", "line 1: not a JSON object"),
    ],
)
def test_lines_that_are_no_answers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, words: str
) -> None:
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    assert words in refused(capsys, folder, tmp_path / "a.jsonl")


def test_folders_and_files_that_are_not_there(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"cannot read {tmp_path / 'truth.jsonl'}" in refused(capsys, tmp_path, tmp_path / "a.jsonl")
    assert f"cannot read {tmp_path / 'a.jsonl'}" in refused(capsys, folder, tmp_path / "a.jsonl")
    write(tmp_path / "truth.jsonl", [{"id": "0"}])
    assert "truth.jsonl, line 1: not a record of truth" in refused(capsys, tmp_path, tmp_path / "a.jsonl")
