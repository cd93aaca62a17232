"""`cotcli demo` as a process: what it draws, asks, keeps, shows and says of the answer, whatever the model answers."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import shlex
import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image
from rich.cells import cell_len

from cotcli.cli.demo import KIND, MAX_QUESTION, SEED, Kind
from cotcli.cli.drawn import FIRST_SEED, Drawn, describe, draw_one, questions, verdict
from cotcli.render.schema import json_schema
from cotcli.shapes.answers import make_answer, matches
from cotcli.shapes.questions import KINDS, Question
from cotcli.shapes.record import read_truth
from cotcli.shapes.scenes import GRID, TRAIN_SEED_BITS, Scene, draw, make_scene
from cotcli.stages import parser_of
from tests.cli.process import Finished, cotcli, cotcli_on_terminal
from tests.shapes.reading import read
from training.held_out import MAX_SET, held_out

DEMO = ("demo", "--threads", 1)
TRUECOLOR = {"COLORTERM": "truecolor"}
NAMES = {"picture.png", "question.json", "answer.json"}


def validate(record: Any) -> None:
    Draft202012Validator({**json_schema(), "anyOf": [{"$ref": "#/$defs/record"}]}).validate(record)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """What `--save` keeps of the default, and the run."""
    folder = tmp_path_factory.mktemp("demo") / "a" / "b"
    done = cotcli(*DEMO, "--json", "--save", folder)
    assert done.code == 0, done.err
    return folder, done


def load(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def test_kinds_are_those_of_the_world() -> None:
    assert get_args(Kind) == KINDS and KIND in KINDS


def test_scenes_are_of_no_other_set() -> None:
    evaluated = {item.scene.seed for set_ in (0, 1, 9_999, MAX_SET) for item in held_out(2, set_)}
    assert min(evaluated) >= 2**TRAIN_SEED_BITS and max(evaluated) < FIRST_SEED


@pytest.mark.parametrize("kind", KINDS)
def test_truths_follow_from_words_and_objects(kind: str) -> None:
    values = set()
    for seed in range(150):
        scene = make_scene(FIRST_SEED + seed)
        question = questions(scene).get(kind)
        if question is not None:
            kept = describe(Drawn(seed, scene, question.text, question))
            (asked,) = kept["questions"]
            assert asked["kind"] == kind
            assert asked["value"] == read(kept["question"], kept["objects"], kept["width"], kept["height"]), kept
            values.add(asked["value"])
    assert len(values) >= (1 if kind == "absent" else 2)


def test_what_is_kept_can_be_checked(kept: tuple[Path, Finished]) -> None:
    folder, done = kept
    assert {path.name for path in folder.iterdir()} == NAMES
    question, answer = load(folder / "question.json"), load(folder / "answer.json")
    scene = make_scene(question["scene_seed"])
    with Image.open(folder / "picture.png") as picture:
        assert picture.size == (question["width"], question["height"])
        assert picture.convert("RGB").tobytes() == draw(scene).tobytes()
    assert len(question["objects"]) == len(scene.objects)
    for told, item in zip(question["objects"], sorted(scene.objects, key=lambda item: item.x), strict=True):
        assert {name: told[name] for name in ("size", "colour", "shape")} == {
            "size": item.size,
            "colour": item.colour,
            "shape": item.shape,
        }
        assert (told["x"], told["y"], told["radius"]) == (item.x, item.y, item.radius)
        column, row = math.floor(item.x * GRID / scene.width), math.floor(item.y * GRID / scene.height)
        assert told["cell"] == f"{'ABCDEFGH'[column]}{row + 1}"
    (asked,) = question["questions"]
    assert asked["text"] == question["question"]
    assert asked["value"] == read(asked["text"], question["objects"], question["width"], question["height"])
    assert asked["truth"] == ("ABCD"[asked["options"].index(asked["value"])] if asked["options"] else asked["value"])
    assert (question["id"], question["image"]) == (f"demo:{SEED}", "picture.png")
    truth = read_truth(question)
    assert truth.questions == (draw_one(SEED, KIND).question,)
    assert draw(truth.scene).tobytes() == draw(scene).tobytes()
    validate(answer)
    assert answer == json.loads(done.out)
    assert answer["question"] == question["question"]
    sha256 = hashlib.sha256((folder / "picture.png").read_bytes()).hexdigest()
    assert sha256 == question["sha256"] == answer["image"]["sha256"]
    assert answer["id"] == answer["image"]["path"] == str(folder / "picture.png")


def test_the_default_is_answered_right(kept: tuple[Path, Finished]) -> None:
    folder, done = kept
    question, answer = load(folder / "question.json"), load(folder / "answer.json")
    (asked,) = question["questions"]
    assert answer["answer"] in (asked["truth"], asked["value"]), "choose another SEED in cotcli.cli.demo"
    assert f"cotcli: right: the truth is {asked['truth']}" in done.err


def test_ask_and_the_kept_command_give_the_same(kept: tuple[Path, Finished], tmp_path: Path) -> None:
    folder, _ = kept
    question, answer = load(folder / "question.json"), load(folder / "answer.json")
    asked = cotcli("ask", question["question"], folder / "picture.png", "--model", "demo", "--threads", 1, "--json")
    assert json.loads(asked.out)["raw"] == answer["raw"]
    assert question["command"] == f"cotcli demo --new {SEED} --kind {KIND}"
    again = cotcli(*question["command"].split()[1:], "--threads", 1, "--save", tmp_path)
    assert again.code == 0
    assert load(tmp_path / "answer.json")["raw"] == answer["raw"]
    for name in ("picture.png", "question.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_saving_replaces_only_its_own(tmp_path: Path) -> None:
    args = (*DEMO, "--new", 2, "--save", tmp_path, "--quiet")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "answer.json").write_text("mine too")
    done = cotcli(*args)
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 'answer.json'} is already there" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "answer.json"}
    (tmp_path / "answer.json").unlink()
    assert cotcli(*args).code == 0
    (tmp_path / "answer.json").write_text("{")
    assert cotcli(*args).code == 0
    validate(load(tmp_path / "answer.json"))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == NAMES | {"notes.txt"} and files["notes.txt"] == b"mine"
    other = cotcli(*DEMO, "--new", 3, "--save", tmp_path)
    assert other.code == 2 and f"{tmp_path / 'picture.png'} is already there" in other.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize("kind", ["count", "compare", "exists", "absent"])
def test_the_verdict_is_on_the_answer(kind: str) -> None:
    drawn = draw_one(11, kind)
    assert drawn.question is not None
    done = cotcli(*DEMO, "--new", 11, "--kind", kind, "--json")
    record = json.loads(done.out)
    validate(record)
    assert (done.code, record["question"], record["id"]) == (0, drawn.text, "demo:11")
    first, last = done.err.splitlines()
    assert first == "cotcli: demo:11: " + drawn.text.replace("\n", " ")
    word = "right" if matches(record["answer"], drawn.question.truth, drawn.question.options) else "wrong"
    assert last.startswith(f"cotcli: {word}: the truth is {truth_of(drawn.question)}")
    assert ("; first mistake: " in last) is (word == "wrong")


@pytest.mark.parametrize("kind", KINDS)
def test_right_and_wrong(kind: str) -> None:
    for seed in range(20):
        scene = make_scene(FIRST_SEED + seed)
        question = questions(scene).get(kind)
        if question is None:
            continue
        answer = make_answer(scene.seen, question, random.Random(seed))
        assert parsed_verdict(scene, question, answer) == (True, f"the truth is {truth_of(question)}")
        concluded = re.compile(r"<CONCLUSION>.*</CONCLUSION>")
        wrong, why = parsed_verdict(scene, question, concluded.sub("<CONCLUSION>none of it</CONCLUSION>", answer))
        assert not wrong
        assert re.fullmatch(rf'the truth is {re.escape(truth_of(question))}; first mistake: .*"none of it".*', why)
        misread = answer.replace("<SUMMARY>", "<SUMMARY>Well, ")
        right, why = parsed_verdict(scene, question, misread)
        assert right and why.startswith(f"the truth is {truth_of(question)}; yet a mistake on the way: the summary ")
        wrong, why = parsed_verdict(scene, question, "I see nothing.")
        assert not wrong and "; first mistake: the stage SUMMARY is missing" in why


def parsed_verdict(scene: Scene, question: Question, raw: str) -> tuple[bool, str]:
    """On what cotcli takes for the answer of a text."""
    parser = parser_of()
    parser.feed(raw)
    parser.close()
    return verdict(scene, question, raw, parser.answer)


@pytest.mark.parametrize(
    "tags", [("<CONCLUSION>", ""), ("<conclusion>", "</conclusion>"), ("<Conclusion>", "</CONCLUSION>")]
)
def test_the_verdict_is_on_what_is_shown_however_its_tags_are_broken(tags: tuple[str, str]) -> None:
    drawn = draw_one(11, "count")
    assert drawn.question is not None
    answer = make_answer(drawn.scene.seen, drawn.question, random.Random(0))
    before = answer.partition("<CONCLUSION>")[0]
    for said, right in ((drawn.question.truth, True), ("none of it", False)):
        judged, why = parsed_verdict(drawn.scene, drawn.question, f"{before}{tags[0]}{said}{tags[1]}")
        assert judged is right
        assert why.startswith(f"the truth is {truth_of(drawn.question)}; ")
        assert ("yet a mistake on the way" if right else "first mistake") in why


def truth_of(question: Question) -> str:
    value = f'"{question.value}"' if question.kind == "absent" else question.value
    return f"{question.truth} ({value})" if question.options else value


def test_a_pipe_gets_the_conclusion(kept: tuple[Path, Finished]) -> None:
    answer = load(kept[0] / "answer.json")["answer"]
    done = cotcli(*DEMO)
    assert (done.code, done.out, done.err.count("\n")) == (0, answer + "\n", 2)
    quiet = cotcli(*DEMO, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, answer + "\n", "")


def test_a_question_of_ones_own(tmp_path: Path) -> None:
    text = "Is there a star?"
    done = cotcli(*DEMO, "--question", text, "--json", "--save", tmp_path)
    assert done.code == 0
    assert "truth" not in done.err and json.loads(done.out)["question"] == text
    question = load(tmp_path / "question.json")
    assert (question["question"], question["questions"]) == (text, [])
    assert question["command"] == f"cotcli demo --new {SEED} --question '{text}'"


def pixels(text: str) -> np.ndarray:
    """The picture that a terminal shows, from its half-blocks; uint8, shape = (2 * rows, columns, 3)."""
    rows = []
    for line in text.splitlines():
        if "▀" not in line:
            continue
        upper, lower = [], []
        for codes, blocks in re.findall(r"\x1b\[([\d;]+)m(▀+)", line):
            a, b = re.fullmatch(r"38;((?:2;\d+;\d+|5);\d+);48;((?:2;\d+;\d+|5);\d+)", codes).groups()  # type: ignore
            upper += [colour(a)] * len(blocks)
            lower += [colour(b)] * len(blocks)
        rows += [upper, lower]
    return np.array(rows, np.uint8)


def colour(code: str) -> tuple[int, ...]:
    """An SGR colour as RGB; of 256, those that terminals do not define as they like (xterm's 256colres.h)."""
    kind, *numbers = map(int, code.split(";"))
    if kind == 2:
        return tuple(numbers)
    number = numbers[0]
    if number >= 232:
        return (8 + 10 * (number - 232),) * 3
    assert number >= 16
    levels = [0, *range(95, 256, 40)]
    return tuple(levels[(number - 16) // share % 6] for share in (36, 6, 1))


def averaged(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The picture's mean colour beneath each of the larger pixels; float, shape = (height, width, 3)."""
    down, across = (np.linspace(0, size, n + 1) for size, n in zip(picture.shape, (height, width), strict=False))
    mean = [
        [
            picture[int(top) : math.ceil(bottom), int(left) : math.ceil(right)].mean((0, 1))
            for left, right in pairs(across)
        ]
        for top, bottom in pairs(down)
    ]
    return np.array(mean)


def pairs(edges: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


@pytest.mark.parametrize(("env", "most"), [(TRUECOLOR, 6), ({}, 24)], ids=["truecolor", "256"])
@pytest.mark.parametrize(("columns", "seed"), [(80, SEED), (120, 4), (30, 1)])
def test_a_terminal_shows_the_picture(env: dict[str, str], most: float, columns: int, seed: int) -> None:
    done = cotcli_on_terminal(*DEMO, "--new", seed, "--show", "conclusion", columns=columns, env=env)
    assert done.code == 0
    assert max(map(cell_len, plain(done.out).splitlines())) <= columns
    shown = pixels(done.out).astype(float)
    scene = make_scene(FIRST_SEED + seed)
    assert shown.shape[0] / shown.shape[1] == pytest.approx(scene.height / scene.width, rel=0.1)
    assert max(shown.shape) >= 30
    picture = averaged(np.asarray(draw(scene)), *shown.shape[:2])
    assert np.abs(shown - picture).mean() < most
    assert np.abs(shown - picture[:, ::-1]).mean() > 1.3 * np.abs(shown - picture).mean()


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("env", [TRUECOLOR, {"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "xterm"}], ids=str)
def test_the_tour(kept: tuple[Path, Finished], columns: int, env: dict[str, str]) -> None:
    question, answer = load(kept[0] / "question.json"), load(kept[0] / "answer.json")
    done = cotcli_on_terminal(*DEMO, columns=columns, env=env)
    assert done.code == 0
    text = plain(done.out)
    assert "\x1b" not in text and max(map(cell_len, text.splitlines())) == columns
    assert (text == done.out) is ("NO_COLOR" in env or env.get("TERM") == "dumb")
    size = f"{question['width']}x{question['height']}"
    named = f"demo:{SEED}, {size} pixels; to look at it: --save DIR\n\n"
    assert ("▀" in text, text.startswith(named)) == ((True, False) if env is TRUECOLOR else (False, True))
    told = " ".join(re.sub(r"[▀─│╭╮╰╯]", " ", text.removeprefix(named)).split())
    words = " ".join(
        f"{stage.capitalize()} {answer['stages'][stage]}" for stage in ("summary", "caption", "reasoning", "conclusion")
    )
    assert told.startswith(" ".join(f"{question['question']} {words}".split()) + " demo · ")
    (asked,) = question["questions"]
    word = "right" if matches(answer["answer"], asked["truth"], tuple(asked["options"])) else "wrong"
    assert re.search(
        rf"tokens/s\n{word}: the truth is {asked['truth']}\b[^╯]*\nnext: cotcli demo --new {SEED + 1}, ", text
    )


def test_after_the_last_picture_comes_the_first() -> None:
    done = cotcli_on_terminal(*DEMO, "--new", 2**32 - 1, "--show", "conclusion", columns=120)
    assert done.code == 0 and "next: cotcli demo --new 0, " in plain(done.out)


def test_quiet_leaves_picture_question_and_answer() -> None:
    done = cotcli_on_terminal(*DEMO, "--show", "conclusion", "--quiet", columns=60, env=TRUECOLOR)
    text = plain(done.out)
    assert text.startswith("▀") and text.endswith("╯\n") and "truth" not in text and done.err == ""


def test_after_saving_the_tour_goes_on_with_ask(tmp_path: Path) -> None:
    folder = tmp_path / "my pictures"
    done = cotcli_on_terminal(*DEMO, "--save", folder, columns=200, env={"NO_COLOR": "1"})
    *_, saved, after = done.out.splitlines()
    assert saved == f"kept in {folder}: picture.png, question.json, answer.json"
    assert after == f"next: cotcli ask QUESTION '{folder / 'picture.png'}' --model demo"
    assert done.out.startswith(f"{folder / 'picture.png'}, ")


def fails(args: list[object], code: int, *texts: str) -> None:
    """One or two lines of error, nothing on stdout, and the model was not loaded: -v would name its files."""
    done = cotcli(*DEMO, "-v", *args)
    assert (done.code, done.out) == (code, "")
    assert len(done.err.splitlines()) <= 2 and done.err.startswith("cotcli: ") and ".gguf" not in done.err
    for text in texts:
        assert text in done.err


def test_usage() -> None:
    fails(["--new", "-1"], 2, "--new", "cotcli demo --help")
    fails(["--new", "seven"], 2, "--new", "cotcli demo --help")
    fails(["--new", 2**32], 2, "--new")
    fails(["--kind", "colour"], 2, "--kind", "cotcli demo --help", *KINDS)
    fails(["--kind", "count", "--question", "Why?"], 2, "--question and --kind exclude each other")
    fails(["--save", ""], 2, "--save takes a folder", "--save out")
    lone = next(seed for seed in range(100) if len(make_scene(FIRST_SEED + seed).objects) == 1)
    offered = ", ".join(questions(make_scene(FIRST_SEED + lone)))
    assert "relation" not in offered
    fails(["--new", lone, "--kind", "relation"], 2, f"picture {lone} offers no question of kind relation", offered)


def test_a_question_that_the_model_cannot_hold(tmp_path: Path) -> None:
    """Refused before anything is kept, with a next step that there is; just short enough, it is answered."""
    folder = tmp_path / "kept"
    fails(["--question", "é" * (MAX_QUESTION // 2) + "!", "--save", folder], 2, "--question", "cotcli ask QUESTION ")
    assert not folder.exists()
    done = cotcli(*DEMO, "--question", "é" * (MAX_QUESTION // 2), "--save", folder, "--json")
    record = json.loads(done.out)
    assert record["usage"]["prompt_tokens"] < 2100 and record["finish_reason"] in ("stop", "length"), done.err
    assert {path.name for path in folder.iterdir()} == NAMES


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for folder in (file, file / "below"):
        fails(["--save", folder], 5, f"cannot write to {folder}", "--save DIR")
    for name in sorted(NAMES):
        (tmp_path / name / name).mkdir(parents=True)
        fails(["--save", tmp_path / name], 2, f"{tmp_path / name / name} is already there")
    assert file.read_text() == "mine" and not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes bind neither there nor the superuser")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    fails(["--save", tmp_path], 5, f"cannot write to {tmp_path}: Permission denied")


def test_a_cut_answer_is_told_how_it_gets_more(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text("[models.demo]\nsampling = { max_tokens = 8 }\n")
    env = {"COTCLI_HOME": str(tmp_path)}
    loose, kept = cotcli(*DEMO, env=env), cotcli(*DEMO, "--save", tmp_path / "a b", env=env)
    hints = []
    for done in (loose, kept):
        assert done.code == 6 and "cut in its summary after 8 tokens" in done.err
        hint = done.err.splitlines()[-1]
        assert hint.startswith("To allow more: cotcli ") and hint.endswith(" --max-tokens N")
        hints.append([shlex.split(part) for part in hint.removeprefix("To allow more: ").split(", then ")])
    # They are commands that work, with a folder and a number.
    (saved, asked), (asked_again,) = hints
    assert saved[0] == asked[0] == asked_again[0] == "cotcli"
    folder = str(tmp_path / "new")
    assert cotcli(*(word.replace("DIR", folder) for word in saved[1:]), env=env).code == 6
    words = [word.replace("DIR", folder) for word in asked[1:-1]]
    assert cotcli(*words, 1000, env=env).out == cotcli(*asked_again[1:-1], 1000, env=env).out == cotcli(*DEMO).out != ""
