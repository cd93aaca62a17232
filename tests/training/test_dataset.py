"""The data set as others would read it: from its files alone, every answer checked, every truth found again."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cotcli.shapes.answers import judge
from cotcli.shapes.check import check
from cotcli.shapes.record import read_truth
from cotcli.shapes.scenes import TRAIN_SEED_BITS, draw
from tests.shapes.reading import read
from training import dataset
from training.dataset import main, make_example

SCENES, QUESTIONS = 30, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets") / "shapes"
    main([str(folder), "--scenes", str(SCENES), "--seed", "5", "--questions", str(QUESTIONS)])
    return folder


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def files(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fails(arguments: list[object], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with one error line that holds these words."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and not shown.out
    assert re.sub(r"(?s)^usage: .*?\n(?=python)", "", shown.err).count("\n") == 1
    assert words in shown.err and "Traceback" not in shown.err


def test_lines_have_the_form_of_llava_cot_100k(folder: Path) -> None:
    train = lines(folder / "train.jsonl")
    assert len(train) == SCENES and len({line["id"] for line in train}) == SCENES
    for line in train:
        assert list(line) == ["id", "image", "conversations"]
        turns = line["conversations"]
        assert [turn["from"] for turn in turns] == ["human", "gpt"] * QUESTIONS
        assert all(list(turn) == ["from", "value"] and "<image>" not in turn["value"] for turn in turns)
        assert len({turn["value"] for turn in turns[::2]}) == QUESTIONS
        assert all(re.match(r"<SUMMARY>.*</CONCLUSION>$", turn["value"], re.DOTALL) for turn in turns[1::2])
        assert not Path(line["image"]).is_absolute()
        with Image.open(folder / line["image"]) as picture:
            assert picture.format == "PNG" and picture.mode == "RGB"


def test_the_folder_holds_nothing_else(folder: Path) -> None:
    pictures = {f"image/{index:06d}.png" for index in range(SCENES)}
    assert set(files(folder)) == {"train.jsonl", "truth.jsonl", *pictures}


def test_truth_can_be_found_again_from_the_files(folder: Path) -> None:
    """By a reader of words and objects, which shares nothing with what wrote them."""
    for train, truth in zip(lines(folder / "train.jsonl"), lines(folder / "truth.jsonl"), strict=True):
        assert (train["id"], train["image"]) == (truth["id"], truth["image"])
        for turn, question in zip(train["conversations"][::2], truth["questions"], strict=True):
            assert turn["value"] == question["text"]
            assert question["value"] == read(turn["value"], truth["objects"], truth["width"], truth["height"])
            said = question["truth"]
            assert question["value"] == (question["options"]["ABCD".index(said)] if question["options"] else said)


def test_pictures_show_the_objects_of_the_truth(folder: Path) -> None:
    for truth in lines(folder / "truth.jsonl"):
        with Image.open(folder / truth["image"]) as picture:
            pixels = np.asarray(picture).astype(int)
        assert pixels.shape == (truth["height"], truth["width"], 3)
        assert [item["x"] for item in truth["objects"]] == sorted(item["x"] for item in truth["objects"])
        for item in truth["objects"]:
            x, y = int(item["x"]), int(item["y"])
            assert np.abs(pixels[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) - item["rgb"]).max() <= 30
            square = "ABCDEFGH"[int(8 * item["x"] / truth["width"])] + str(int(8 * item["y"] / truth["height"]) + 1)
            assert item["cell"] == square


def test_every_answer_passes_the_checker_and_the_judge(folder: Path) -> None:
    kinds = set()
    for train, truth in zip(lines(folder / "train.jsonl"), lines(folder / "truth.jsonl"), strict=True):
        found = read_truth(truth)
        assert found.scene.seed < 2**TRAIN_SEED_BITS
        with Image.open(folder / found.image) as picture:
            assert picture.tobytes() == draw(found.scene).tobytes()
        for turn, question in zip(train["conversations"][1::2], found.questions, strict=True):
            kinds.add(question.kind)
            assert check(turn["value"], found.scene, question).faults == ()
            assert judge(turn["value"], question).correct
    assert len(kinds) == 8


def test_the_same_command_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    before = files(folder)
    small = [str(tmp_path / "a"), "--scenes", "5", "--seed", "5", "--questions", str(QUESTIONS)]
    main(small)
    first = files(tmp_path / "a")
    main(small)
    assert files(tmp_path / "a") == first
    pictures = [name for name in first if name.startswith("image/")]
    assert len(pictures) == 5 and all(first[name] == before[name] for name in pictures)  # a longer set goes on
    main([str(tmp_path / "b"), "--scenes", "5", "--seed", "6", "--questions", str(QUESTIONS)])
    assert not set(files(tmp_path / "b").values()) & set(first.values())


def test_one_question_a_picture_unless_told_otherwise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path / "new" / "set"), "--scenes", "2", "--seed", "0"])
    assert capsys.readouterr().out == f"2 pictures with 2 questions in {tmp_path / 'new' / 'set'}\n"
    assert [len(line["conversations"]) for line in lines(tmp_path / "new" / "set" / "train.jsonl")] == [2, 2]


def test_many_questions_about_one_picture_are_all_different() -> None:
    for index in range(10):
        texts = [question.text for question in make_example(0, index, 64).questions]
        assert len(set(texts)) == 64


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--scenes", "0", "argument --scenes: '0' is not a whole number from 1 to 1000000"),
        ("--scenes", "1000001", "from 1 to 1000000"),
        ("--scenes", "many", "argument --scenes: 'many' is not a whole number"),
        ("--seed", "-1", "argument --seed: '-1' is not a whole number from 0 to"),
        ("--seed", "1.5", "argument --seed: '1.5'"),
        ("--questions", "0", "argument --questions: '0' is not a whole number from 1 to 64"),
        ("--questions", "65", "argument --questions: '65'"),
    ],
)
def test_bad_values_are_one_clear_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    given = {"--scenes": "2", "--seed": "0", "--questions": "1", option: value}
    fails([tmp_path / "set", *(word for pair in given.items() for word in pair)], words, capsys)
    assert not (tmp_path / "set").exists()


def test_other_files_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [tmp_path, "--scenes", 2, "--seed", 0]
    (tmp_path / "notes.txt").write_text("mine")
    fails(command, "notes.txt", capsys)
    assert set(files(tmp_path)) == {"notes.txt"}
    fails([tmp_path / "notes.txt", *command[1:]], "cannot write to", capsys)


@pytest.mark.parametrize("name", ["000002.png", "00001.png", "x.png", "000001.jpg"])
def test_pictures_of_another_set_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image" / name).write_bytes(b"mine")
    fails([tmp_path, "--scenes", 2, "--seed", 0], f"image/{name}", capsys)
    assert set(files(tmp_path)) == {f"image/{name}"}


@pytest.mark.parametrize("option", ["--seed", "--questions"])
def test_another_set_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str) -> None:
    given = {"--scenes": "3", "--seed": "5", "--questions": "2"}
    main([str(tmp_path), *(word for pair in given.items() for word in pair)])
    before = files(tmp_path)
    capsys.readouterr()
    other = given | {option: "6"}
    command: list[object] = [tmp_path, *(word for pair in other.items() for word in pair)]
    fails(command, f"{tmp_path} holds train.jsonl, which is not of this data set; give a new folder, or", capsys)
    (tmp_path / "train.jsonl").unlink()
    fails(command, "holds truth.jsonl, which is not of this data set", capsys)
    (tmp_path / "truth.jsonl").write_text("")
    fails(command, "holds truth.jsonl", capsys)
    assert {name: files(tmp_path)[name] for name in before if name.endswith("png")} == {
        name: sha256 for name, sha256 in before.items() if name.endswith("png")
    }


def test_a_stopped_set_is_gone_on_with_by_the_same_command_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the third picture of seed 6, in a folder that held nothing and in one that holds seed 5."""
    drawn = 0

    def draw_until_stopped(scene: Any) -> Any:
        nonlocal drawn
        drawn += 1
        if drawn == 3:
            raise KeyboardInterrupt
        return draw(scene)

    held = [str(tmp_path / "held"), "--scenes", "4", "--seed"]
    empty = [str(tmp_path / "empty"), "--scenes", "4", "--seed"]
    main([*held, "5"])
    before = files(tmp_path / "held")
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "draw", draw_until_stopped)
        with pytest.raises(SystemExit):
            main([*held, "6"])
        with pytest.raises(KeyboardInterrupt):
            main([*empty, "6"])
    assert drawn == 3 and files(tmp_path / "held") == before
    assert not {"train.jsonl", "truth.jsonl"} & set(files(tmp_path / "empty"))
    capsys.readouterr()
    fails([*empty, "5"], "holds train.jsonl.part", capsys)
    main([*empty, "6"])
    main([str(tmp_path / "whole"), "--scenes", "4", "--seed", "6"])
    assert files(tmp_path / "empty") == files(tmp_path / "whole")
