"""`cotcli batch` as users run it: processes, real pictures and files, and every way in which a run can end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from benchmarks.kills import batch_killed
from benchmarks.small_checkpoints import Recipe, random_tensors, write_checkpoint
from convert import convert
from cotcli.cli.drawn import draw_one
from cotcli.install import mmproj_beside, record_beside
from cotcli.render.schema import json_schema
from tests.batch.test_table import as_text, flat
from tests.cli.process import COMMAND, Finished, cotcli, cotcli_on_terminal, environment, screen

QUESTION = "Is there a circle?"
# One token of an answer: these tests are about files.
QUICK = ("--model", "demo", "--threads", 1, "--stages", "none", "--choices", "yes,no")
IDS = ["0.png", "1.png", "sub/2.png", "sub/3.png"]
BAD = "sub/broken.png"


@pytest.fixture(scope="module")
def drawn() -> list[bytes]:
    return [draw_one(seed).png for seed in range(len(IDS))]


@pytest.fixture
def folder(tmp_path: Path, drawn: list[bytes], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures and a broken one, and the folder to be in."""
    for name, data in zip([*IDS, BAD], [*drawn, b"words"], strict=True):
        (tmp_path / "pics" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pics" / name).write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def batch(*args: object, stdin: bytes = b"") -> Finished:
    return cotcli("batch", *args, stdin=stdin)


def records(text: str | Path) -> list[dict[str, Any]]:
    """Each validated."""
    text = text.read_bytes().decode("utf-8") if isinstance(text, Path) else text
    assert not text or text.endswith("\n")
    values: list[dict[str, Any]] = [json.loads(line) for line in text.split("\n")[:-1]]
    validator = Draft202012Validator({**json_schema(), "anyOf": [{"$ref": "#/$defs/record"}]})
    for value in values:
        validator.validate(value)
    return values


def timeless(text: str | Path) -> list[dict[str, Any]]:
    return [{**record, "timing_ms": None} for record in records(text)]


def test_a_folder_resumed_and_retried(folder: Path, drawn: list[bytes]) -> None:
    command = (QUESTION, "pics", *QUICK, "-o", "out.jsonl")
    done = batch(*command)
    assert (done.code, done.out) == (7, "")
    lines = done.err.splitlines()
    assert lines[0] == f"cotcli: pics/{BAD}: not an image"
    assert lines[1].startswith("cotcli: 4 answered, 1 failed, ") and lines[1].endswith(" answers/min: out.jsonl")
    assert lines[2:] == ["cotcli: to ask again what failed: --retry-errors"]
    first = records(Path("out.jsonl"))
    assert [record["id"] for record in first] == [*IDS, BAD]
    assert [record["ok"] for record in first] == [True] * 4 + [False]
    for record in first[:4]:
        assert record["answer"] in ("yes", "no") and record["image"]["path"] == f"pics/{record['id']}"
    assert first[4]["error"]["code"] == "image" and first[4]["image"] is None
    assert first[4]["model"] == first[0]["model"] and first[4]["params"] == first[0]["params"]

    stdout = batch(QUESTION, "pics", *QUICK)
    assert stdout.code == 7
    assert timeless(stdout.out) == timeless(Path("out.jsonl")), "stdout gets the same"

    before = Path("out.jsonl").read_bytes()
    done = batch(*command)
    assert (done.code, done.out) == (7, "")
    assert done.err.startswith("cotcli: 0 answered, 4 done before, 1 failed before: out.jsonl\n")
    assert Path("out.jsonl").read_bytes() == before, "nothing is asked again"

    Path("pics", BAD).write_bytes(drawn[0])
    Path("pics", "00.png").write_bytes(drawn[1])
    done = batch(*command, "--retry-errors", "--quiet")
    assert (done.code, done.out, done.err) == (0, "", "")
    after = Path("out.jsonl").read_bytes()
    assert [record["id"] for record in records(Path("out.jsonl"))] == ["0.png", "00.png", "1.png", *IDS[2:], BAD]
    lines_of = [before.splitlines(), after.splitlines()]
    assert set(lines_of[0][:4]) < set(lines_of[1]), "records that were there are there as they were"
    assert sorted(os.listdir()) == ["out.jsonl", "pics"]


def test_both_streams_carry_their_own(folder: Path) -> None:
    command = list(map(str, [*COMMAND, "batch", QUESTION, "pics", *QUICK]))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(), check=False)
    assert len(records(done.stdout.decode())) == 5
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment(), check=False)
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 2 and all(line.startswith("cotcli: ") for line in lines)


def test_questions(folder: Path) -> None:
    Path("lists").mkdir()
    rows = ["image,question,choices,id", '../pics/0.png,"How many, ""all"" in all?","1,2,3",n']
    rows += [f"../pics/0.png,{QUESTION},,", f"../pics/{BAD},{QUESTION},,", f"{folder}/pics/1.png,{QUESTION},,"]
    Path("lists", "q.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    done = batch("--questions", "lists/q.csv", *QUICK, "-o", "out.jsonl")
    assert done.code == 7, done.err
    found = records(Path("out.jsonl"))
    assert [record["id"] for record in found] == ["n", "../pics/0.png", f"../pics/{BAD}", f"{folder}/pics/1.png"]
    assert found[0]["question"] == 'How many, "all" in all?'
    assert found[0]["params"]["choices"] == ["1", "2", "3"] and found[0]["answer"] in ("1", "2", "3")
    assert found[1]["params"]["choices"] == ["yes", "no"] and found[1]["answer"] in ("yes", "no")
    assert found[1]["image"]["path"] == "lists/../pics/0.png"
    before = Path("out.jsonl").read_bytes()
    rows[1] = rows[1].replace("all?", "all now?")
    Path("lists", "q.csv").write_text("\n".join(rows), encoding="utf-8")
    done = batch("--questions", "lists/q.csv", *QUICK, "-o", "out.jsonl")
    assert done.code == 2 and "the question" in done.err and "(n)" in done.err
    assert Path("out.jsonl").read_bytes() == before


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_a_list_of_odd_names(folder: Path, drawn: list[bytes]) -> None:
    names = [b"new\nline.png", b" spaces .png", b"\xff\xc3.png", "é木.png".encode()]
    for name, data in zip(names, drawn, strict=True):
        Path(os.fsdecode(name)).write_bytes(data)
    listed = b"\0".join(names) + b"\0"
    command = (QUESTION, "--files-from", "-", "-0", *QUICK, "-o", "out.jsonl")
    done = batch(*command, stdin=listed)
    assert done.code == 0, done.err
    assert [os.fsencode(record["id"]) for record in records(Path("out.jsonl"))] == names
    assert batch(*command, stdin=listed).err == "cotcli: 0 answered, 4 done before: out.jsonl\n"
    dry = batch(QUESTION, "--files-from", "-", "-0", "--model", "demo", "--dry-run", stdin=listed)
    assert len(dry.out.splitlines()) == 4


def test_what_would_be_done(folder: Path) -> None:
    command = (QUESTION, "pics", *QUICK, "-o", "out.jsonl")
    done = batch(*command, "--dry-run", "--limit", 3)
    assert (done.code, done.out) == (0, "0.png\n1.png\nsub/2.png\n")
    assert done.err == "cotcli: 3 to ask, 2 left for later\n"
    assert os.listdir() == ["pics"]
    assert batch(*command, "--limit", 1, "--quiet").code == 0
    before = Path("out.jsonl").read_bytes()
    done = batch(*command, "--dry-run")
    assert done.out == "".join(f"{id}\n" for id in [*IDS[1:], BAD])
    assert done.err == "cotcli: 4 to ask, 1 done before\n"
    assert batch(*command, "--seed", 3, "--dry-run").code == 2, "it says what would be refused, too"
    assert Path("out.jsonl").read_bytes() == before and sorted(os.listdir()) == ["out.jsonl", "pics"]


def test_limits(folder: Path, drawn: list[bytes]) -> None:
    for number in range(3):
        Path("pics", f"bad{number}.png").write_bytes(b"words")
    command = (QUESTION, "pics", *QUICK, "-o", "out.jsonl")
    done = batch(*command, "--limit", 1)
    assert done.code == 0 and "1 answered, 7 left" in done.err
    done = batch(*command, "--fail-fast")
    assert done.code == 7 and "1 answered, 1 failed, 1 done before, 5 left" in done.err
    assert "stopped after 1 failure, as" in done.err
    assert [record["id"] for record in records(Path("out.jsonl"))] == ["0.png", "1.png", "bad0.png"]
    done = batch(*command, "--max-errors", 3)
    assert done.code == 7 and "2 answered, 3 failed, 2 done before, 1 failed before" in done.err
    assert "stopped" not in done.err, "nothing was left when the third failed"
    assert len(records(Path("out.jsonl"))) == 8


@pytest.fixture
def answered(folder: Path) -> Path:
    """A file with one record."""
    assert batch(QUESTION, "pics", *QUICK, "-o", "out.jsonl", "--limit", 1, "-q").code == 0
    return Path("out.jsonl")


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        (["How many?", "pics", *QUICK], ["the question 'Is there a circle?', not 'How many?'", "0.png"]),
        ([QUESTION, "pics", *QUICK, "--temperature", 0.5], ["the parameter temperature 0.0, not 0.5"]),
        ([QUESTION, "pics", *QUICK, "--top-p", 0.5], ["the parameter top_p 0.9, not 0.5"]),
        ([QUESTION, "pics", *QUICK, "--top-k", 5], ["the parameter top_k 0, not 5"]),
        ([QUESTION, "pics", *QUICK, "--min-p", 0.5], ["the parameter min_p 0.0, not 0.5"]),
        ([QUESTION, "pics", *QUICK, "--repeat-penalty", 1.5], ["the parameter repeat_penalty 1.0, not 1.5"]),
        ([QUESTION, "pics", *QUICK, "--seed", 5], ["the parameter seed 0, not 5"]),
        ([QUESTION, "pics", *QUICK, "--max-tokens", 5], ["the parameter max_tokens 1024, not 5"]),
        ([QUESTION, "pics", *QUICK, "--stage-max-tokens", "caption=5"], ["stage_max_tokens {}, not {'caption': 5}"]),
        ([QUESTION, "pics", *QUICK[:-1], "yes,no,?"], ["the parameter choices ['yes', 'no'], not ['yes', 'no', '?']"]),
        ([QUESTION, "pics", *QUICK[:-2]], ["the parameter choices ['yes', 'no'], not None"]),
        ([QUESTION, "pics", *QUICK, "--stages", "tags"], ["the stage format 'none', not 'tags'"]),
        ([QUESTION, "pics/other", *QUICK], ["0.png as another picture, pics/0.png, not pics/other/0.png"]),
    ],
    ids=lambda value: str(value[-1]) if isinstance(value, list) else "",
)  # fmt: skip
def test_records_of_different_kinds_are_not_mixed(
    answered: Path, drawn: list[bytes], changes: list[Any], texts: list[str]
) -> None:
    Path("pics/other").mkdir()
    Path("pics/other/0.png").write_bytes(drawn[1])
    before = answered.read_bytes()
    done = batch(*changes, "-o", answered)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 2
    for text in (*texts, "out.jsonl"):
        assert text in done.err
    assert answered.read_bytes() == before


def test_models_are_not_mixed(checkpoint: Path, noise: Path, folder: Path) -> None:
    same = cotcli("convert", checkpoint, "--out", "pair", "--name", "noise", "--type", "f16", "--threads", 1)
    assert same.code == 0, same.err
    command = (QUESTION, "pics", "--threads", 1, "--max-tokens", 2, "-o", "out.jsonl")
    assert batch(*command, "-m", noise, "--limit", 1).code == 7, "two tokens are no answer"
    before = Path("out.jsonl").read_bytes()
    for model, text in (
        (same.out.strip(), "the model file (SHA-256) '"),
        ("demo", "the model 'noise', not 'demo'"),
    ):
        done = batch(*command, "-m", model, "--temperature", 0.6, "--seed", 0)
        assert done.code == 2 and text in done.err and "--overwrite" in done.err, done.err
        assert Path("out.jsonl").read_bytes() == before
    other = json.loads(before)
    other["model"] = {**other["model"], "name": "demo", "sha256": "0" * 64}
    Path("out.jsonl").write_text(json.dumps(other) + "\n")
    done = batch(*command, "-m", "demo", "--temperature", 0.6)
    assert done.code == 2 and "the model file (SHA-256) '000" in done.err
    done = batch(*command, "-m", noise, "--limit", 1, "--overwrite")
    assert timeless(Path("out.jsonl")) == [{**json.loads(before), "timing_ms": None}]


def test_what_goes_by_the_same_name_is_not_mixed(noise: Path, folder: Path) -> None:
    """Pairs without a record beside them have no known checksum."""
    for path in (noise, mmproj_beside(noise)):
        shutil.copy(path, folder)
    noise = folder / noise.name
    recipe = Recipe(hidden_size=64, intermediate_size=128, vocab_size=400, seed=1)
    write_checkpoint(folder / "other", recipe, random_tensors(recipe))
    other = convert(folder / "other", folder / "pair", "f32", name="noise")
    record_beside(other.language).unlink()
    half = convert(folder / "other", folder / "half", "f32", name="noise", vision_type="f16")
    record_beside(half.language).unlink()
    command = (QUESTION, "pics", "--threads", 1, "--max-tokens", 2, "-o", "out.jsonl", "-m")
    assert batch(*command, noise, "--limit", 1).code == 7, "two tokens are no answer"
    before = Path("out.jsonl").read_bytes()
    assert json.loads(before)["model"]["sha256"] is None
    done = batch(*command, other.language)
    assert done.code == 2 and "made with the checkpoint (pair_id) '" in done.err, done.err
    assert batch(*command, other.language, "--limit", 1, "--overwrite").code == 7
    done = batch(*command, half.language)
    assert done.code == 2 and "made with the vision file (mmproj_id) '" in done.err, done.err
    Path("out.jsonl").write_bytes(before)
    Path("home").mkdir()
    Path("home", "models.toml").write_text('[models.noise]\nprompt = "In short: {question}"\n')
    done = cotcli("batch", *command, noise, "--dry-run", env={"COTCLI_HOME": str(folder / "home")})
    assert done.code == 2 and "made with the wording of prompt and stages (prompt_id) '" in done.err, done.err
    assert Path("out.jsonl").read_bytes() == before


def test_a_moved_folder_goes_on(answered: Path) -> None:
    Path("pics").rename("moved")
    done = batch(QUESTION, "moved", *QUICK, "-o", "out.jsonl")
    assert done.code == 7 and "3 answered, 1 failed, 1 done before" in done.err


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        ([], ["nothing to ask", "cotcli batch --help"]),
        ([QUESTION], ["no picture", "--files-from"]),
        ([" ", "pics"], ["the question is blank"]),
        ([QUESTION, "pics", "--questions", "q.csv"], ["--questions"]),
        (["--questions", "q.csv", "--include", "*.png"], ["--include"]),
        (["--questions", "q.csv", "--files-from", "q.csv"], ["--files-from"]),
        (["--questions", "q.csv"], ["q.csv:2: has no question"]),
        ([QUESTION, "pics", "-0"], ["--null", "--files-from"]),
        ([QUESTION, "--files-from", "none.txt"], ["cotcli: none.txt: No such file"]),
        ([QUESTION, "--files-from", "nul.txt"], ["cotcli: nul.txt holds NUL bytes", "writes: --null\n"]),
        ([QUESTION, "-"], ["from stdin: --files-from -\n"]),
        (["--questions", "q.xlsx"], ["cotcli: q.xlsx: what form it has is not known"]),
        ([QUESTION, "pics", "--fail-fast", "--max-errors", "2"], ["exclude each other"]),
        ([QUESTION, "pics", "--retry-errors"], ["--retry-errors", "-o FILE"]),
        ([QUESTION, "pics", "--overwrite"], ["--overwrite", "-o FILE"]),
        ([QUESTION, "pics", "--limit", "0"], ["--limit"]),
        ([QUESTION, "pics", "--parallel", "0"], ["--parallel"]),
        ([QUESTION, "pics", "-o", "out.json"], ["out.json", ".jsonl", ".parquet"]),
        ([QUESTION, "pics", "-o", "none/out.jsonl"], ["no folder none", "mkdir -p none"]),
        ([QUESTION, "pics", "-o", "q.csv"], ["q.csv is already there", "--overwrite"]),
        ([QUESTION, "--files-from", "list.jsonl", "-o", "list.jsonl"], ["is what the questions are read from"]),
        ([QUESTION, "pics", "-o", "list.jsonl"], ["list.jsonl:1: is not a record"]),
        ([QUESTION, "pics", "--temperature", "-1"], ["temperature must be 0 or more"]),
        ([QUESTION, "pics", "--seed", "-1", "-o", "out.jsonl"], ["--seed -1 draws another seed each time", "--seed N"]),
        (
            ["--questions", "t.csv.jsonl", "-o", "t.csv", "--overwrite"],
            ["t.csv.jsonl is what the questions are read from", "-o FILE"],
        ),
        ([QUESTION, "pics", "--schema", "deep.json"], ["--schema deep.json: is nested too deeply"]),
    ],
)
def test_usage(folder: Path, args: list[str], texts: list[str]) -> None:
    Path("q.csv").write_text("image,question\npics/0.png,\n")
    Path("t.csv.jsonl").write_text('{"image": "pics/0.png", "question": "What?"}\n')
    Path("list.jsonl").write_text("pics/0.png\n")
    Path("deep.json").write_text(DEEP)
    Path("nul.txt").write_bytes(b"a\0b\0")
    names = sorted(os.listdir())
    kept = [Path(name).read_bytes() for name in names if name != "pics"]
    done = batch(*args, "--model", "demo")
    assert (done.code, done.out) == (2, ""), done.err
    assert 1 <= done.err.count("\n") <= 2
    for text in texts:
        assert text in done.err
    assert kept == [Path(name).read_bytes() for name in names if name != "pics"]
    assert sorted(os.listdir()) == names


def test_pictures_that_are_not_there(folder: Path) -> None:
    assert batch(QUESTION, "pics", "none.png", *QUICK).code == 3
    Path("bare").mkdir()
    done = batch(QUESTION, "bare", *QUICK)
    assert done.code == 3 and "For other names: --include GLOB" in done.err
    Path("list").write_text("none.png\npics/0.png\n")
    done = batch(QUESTION, "--files-from", "list", *QUICK)
    assert done.code == 7 and [record["ok"] for record in records(done.out)] == [False, True]
    Path("list").write_text("")
    done = batch(QUESTION, "--files-from", "list", *QUICK)
    assert (done.code, done.out, done.err) == (0, "", "cotcli: 0 answered\n"), "nothing to do is no failure"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo("pipe.png")
    Path("list").write_text("pics/0.png\npipe.png\n")
    done = batch(QUESTION, "--files-from", "list", *QUICK)
    assert done.code == 7 and done.err.startswith("cotcli: pipe.png: is a pipe or a device\n")
    assert [record["ok"] for record in records(done.out)] == [True, False]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables(folder: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    name = f"out{suffix}"
    assert batch(QUESTION, "pics", *QUICK, "-o", name, "--limit", 2).code == 0
    assert len(rows(Path(name))) == 2
    assert batch(QUESTION, "pics", *QUICK, "-o", name).code == 7
    found = records(Path(f"{name}.jsonl"))
    assert [record["id"] for record in found] == [*IDS, BAD]
    for row, record in zip(rows(Path(name)), found, strict=True):
        values = flat(record)
        assert {key: as_text(value) for key, value in row.items()} == {key: as_text(values.get(key)) for key in row}
    assert sorted(os.listdir()) == [name, f"{name}.jsonl", "pics"]
    Path(name).unlink()
    assert batch(QUESTION, "pics", *QUICK, "-o", name).code == 7
    assert len(rows(Path(name))) == 5, "made again of its records"
    Path(f"{name}.jsonl").unlink()
    before = Path(name).read_bytes()
    done = batch(QUESTION, "pics", *QUICK, "-o", name)
    assert done.code == 2 and f"but not {name}.jsonl" in done.err
    assert Path(name).read_bytes() == before


def rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".csv":
        import csv

        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    import pyarrow.parquet

    table: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    return table


def test_killed_at_any_instant_it_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    seen = batch_killed(tmp_path, pictures=20, kills=10, seed=0)
    assert seen.kills == 10 and seen.finished >= 1
    assert seen.went_on, "runs went on from answers"
    assert seen.differing == 0 and seen.lost == 0 and seen.left_over == 0


DEEP = "[" * 100_000 + "]" * 100_000
SLOW = ("--threads", 1, "--temperature", 0, "--ctx", 200_000, "--max-tokens", 100_000)


def start(*args: object, **options: Any) -> subprocess.Popen[bytes]:
    command = list(map(str, [*COMMAND, "batch", *args]))
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), **options)


def wait_for(path: Path, lines: int) -> None:
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_batches_on_one_file(noise: Path, folder: Path) -> None:
    Path("pics/0.png").write_bytes(b"words")  # its record shows that the batch has begun
    running = start(QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl")
    try:
        wait_for(Path("out.jsonl"), 1)
        done = batch(QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl")
        assert (done.code, done.out) == (5, "")
        assert done.err.splitlines()[0] == "cotcli: another batch is writing out.jsonl"
        assert running.poll() is None
    finally:
        running.kill()
        running.communicate()
    done = batch(QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl", "--dry-run")
    assert done.code == 0 and "4 to ask, 1 failed before" in done.err


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process is POSIX")
def test_interrupt(noise: Path, folder: Path) -> None:
    for name in ("0.png", "1.png"):
        Path("pics", name).write_bytes(b"words")
    command = (QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl")
    for more, how in (((), "again"), (("--overwrite",), "without --overwrite")):
        before = Path("out.jsonl").stat().st_mtime_ns if more else 0
        process = start(*command, *more)
        while more and Path("out.jsonl").stat().st_mtime_ns == before:  # until what was there is dropped
            assert process.poll() is None
            time.sleep(0.02)
        wait_for(Path("out.jsonl"), 2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (130, b"")
        assert err.decode().splitlines()[-2:] == ["cotcli: interrupted", f"To go on: the same command {how}"]
        assert b"cotcli: 0 answered, 2 failed, 3 left, " in err
        ids = [record["id"] for record in records(Path("out.jsonl"))]
        assert ids == ["0.png", "1.png"], "what was being written is not kept"
        assert sorted(os.listdir()) == ["out.jsonl", "pics"]


@pytest.mark.skipif(os.name == "nt", reason="SIGINT to one process is POSIX")
def test_a_second_interrupt_ends_it_at_once(noise: Path, folder: Path) -> None:
    Path("pics", "0.png").write_bytes(b"words")
    process = start(QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl")
    wait_for(Path("out.jsonl"), 1)
    for _ in range(20):
        process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert [record["id"] for record in records(Path("out.jsonl"))] == ["0.png"]
    done = batch(QUESTION, "pics", "-m", noise, *SLOW, "-o", "out.jsonl", "--dry-run")
    assert done.code == 0 and "4 to ask, 1 failed before" in done.err


def test_stdout_is_in_order_whatever_ends_first(folder: Path) -> None:
    long = "image,question,choices\npics/0.png,What is in the picture?,\n"
    Path("q.csv").write_text(long + "".join(f'pics/{id},{QUESTION},"yes,no"\n' for id in IDS[1:]))
    command = ("--questions", "q.csv", *QUICK[:-2], "--max-tokens", 12, "--parallel", 3)
    done = batch(*command)
    assert done.code == 7, done.err
    assert [record["id"] for record in records(done.out)] == [f"pics/{id}" for id in IDS]
    assert timeless(done.out) == timeless(batch(*command[:-2]).out)


def test_no_more_is_loaded_than_there_is_to_ask(folder: Path) -> None:
    """By llama.cpp's log: the key-value cache has room for all sequences from the beginning."""
    done = batch(QUESTION, "pics/0.png", "pics/1.png", *QUICK, "--parallel", 256, "-vv")
    assert (done.code, len(records(done.out))) == (0, 2), done.err
    assert re.findall(r"n_seq_max += (\d+)", done.err) == ["2"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(folder: Path, drawn: list[bytes]) -> None:
    for number in range(40):
        Path("pics", f"bad{number}.png").write_bytes(b"words")
    process = start(QUESTION, "pics", *QUICK, "--quiet")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b'{"schema_version"')
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(sys.platform != "linux", reason="asks a pipe how much is in it")
def test_a_reader_that_sleeps_does_not_keep_it_from_being_interrupted(folder: Path) -> None:
    import fcntl
    import termios

    for number in range(150):
        Path("pics", f"bad{number}.png").write_bytes(b"words")
    process = start(QUESTION, "pics", *QUICK, "--quiet")
    assert process.stdout is not None
    deadline = time.monotonic() + 120
    sizes = [0, 1]
    while sizes[-1] < 20_000 or sizes[-1] != sizes[-2]:  # full
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(1)
        waiting = fcntl.ioctl(process.stdout, termios.FIONREAD, bytes(4))
        sizes.append(int.from_bytes(waiting, sys.byteorder))
    while process.poll() is None:  # the first ends the batch, the second what is left to be written
        assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert process.returncode in (130, -signal.SIGINT)
    process.communicate()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no /dev/full")
def test_stdout_on_a_full_disk(folder: Path) -> None:
    command = ["sh", "-c", '"$@" > /dev/full', "sh", *COMMAND, "batch", QUESTION, "pics", *map(str, QUICK)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 5 and "No space left on device" in done.stderr


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.skipif(os.name == "nt", reason="RLIMIT_FSIZE is POSIX")
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_file_size_limit_counts_as_a_full_disk(folder: Path, suffix: str) -> None:
    assert batch(QUESTION, "pics", *QUICK, "-o", f"whole{suffix}").code == 7
    output = Path(f"out{suffix}")
    journal = output if suffix == ".jsonl" else Path("out.csv.jsonl")
    command = [*COMMAND, "batch", QUESTION, "pics", *map(str, QUICK), "-o", str(output)]
    limited = [sys.executable, "-c", LIMITED, *command]
    done = subprocess.run(limited, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 5, done.stderr
    assert f"cotcli: {journal}: no space left to write (File too large); what is in it is whole" in done.stderr
    assert 1 <= len(records(journal)) < 5
    assert batch(QUESTION, "pics", *QUICK, "-o", output).code == 7
    assert timeless(journal) == timeless(Path(f"whole{suffix}{'.jsonl' if suffix == '.csv' else ''}"))


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 16 kB, where we may mount one."""
    disk = folder / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_fills_up(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(9_000))  # three of its four pages
    output = small_disk / "out.jsonl"
    done = batch(QUESTION, "pics", *QUICK, "-o", output)
    assert done.code == 5, done.err
    assert f"cotcli: {output}: no space left to write (No space left on device)" in done.err
    assert "Free some disk and start it again: it goes on from there" in done.err
    assert 1 <= len(records(output)) < 5
    (small_disk / "ballast").unlink()
    assert batch(QUESTION, "pics", *QUICK, "-o", output).code == 7
    assert [record["id"] for record in records(output)] == [*IDS, BAD]
    assert os.listdir(small_disk) == ["out.jsonl"]


def test_a_disk_that_cannot_be_written(small_disk: Path, noise: Path) -> None:
    # This model cannot be loaded: that the disk is complained of shows that it is tried first.
    broken = Path("noise-F32.gguf")
    broken.write_bytes(noise.read_bytes()[:1000])
    Path("noise-F32.mmproj.gguf").write_bytes(b"")
    assert batch(QUESTION, "pics", "-m", broken, "-o", "out.jsonl").code == 4
    assert not Path("out.jsonl").exists(), "nothing is left of a batch that never began"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = batch(QUESTION, "pics", "-m", broken, "-o", small_disk / "out.jsonl")
    assert done.code == 5 and "cannot be written (Read-only file system)" in done.err
    assert "Write to another file" in done.err


@pytest.mark.skipif(os.name == "nt" or getattr(os, "geteuid", lambda: 0)() == 0, reason="root may write all")
def test_a_file_that_cannot_be_written(answered: Path) -> None:
    answered.chmod(0o400)
    done = batch(QUESTION, "pics", *QUICK, "-o", answered)
    assert done.code == 5 and "out.jsonl: cannot be written (Permission denied)" in done.err


@pytest.mark.parametrize("columns", [80, 120])
def test_progress_on_a_terminal(folder: Path, columns: int) -> None:
    import re

    done = cotcli_on_terminal("batch", QUESTION, "pics", *QUICK, "-o", "out.jsonl", columns=columns)
    assert (done.code, done.out) == (7, "")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.err)
    drawn = [line.rstrip() for line in re.split(r"[\r\n]+", text)]
    assert max(map(len, drawn)) <= columns
    assert "Loading the model" in text
    assert re.search(r"━ \d/5( |$)", text, re.MULTILINE) and re.search(r"\d+\.\d/min  \d:\d\d:\d\d left", text)
    assert any(line.startswith(("0.png", "1.png", "sub/")) for line in drawn), "the picture is named"
    shown = [line for line in screen(done.err) if line.strip()]
    assert shown[0] == f"cotcli: pics/{BAD}: not an image"
    assert shown[1].startswith("cotcli: 4 answered, 1 failed, ") and len(shown) == 3, "the bar is wiped"
    Path("pics", BAD).write_bytes(b"other words")
    for number in range(3):
        Path("pics", f"{number}.bad.png").write_bytes(b"words")
    done = cotcli_on_terminal("batch", QUESTION, "pics", *QUICK, "-o", "out.jsonl", "--limit", 2, columns=columns)
    assert "/7" in done.err and "/8" not in done.err, "five before, and two: the last is for later"


def test_no_progress_where_it_cannot_be_drawn(folder: Path) -> None:
    for args, env in (((), {"TERM": "dumb"}), (("--quiet",), {})):
        done = cotcli_on_terminal("batch", QUESTION, "pics", *QUICK, *args, env=env)
        assert done.code == 7 and len(records(done.out)) == 5
        assert "\x1b" not in done.err and "\r" not in done.err
        assert bool(done.err) is not bool(args)
