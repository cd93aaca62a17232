"""What goes wrong, as a user meets it: one or two lines on stderr, the exit code, and a record where records are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cotcli import errors
from cotcli.cli.run import known
from cotcli.render.schema import json_schema
from tests.cli.process import COMMAND, Finished, cotcli, environment

QUESTION = "How many?"


def fails(done: Finished, code: int, *texts: str) -> None:
    assert (done.code, done.out) == (code, "")
    lines = done.err.splitlines()
    assert 1 <= len(lines) <= 2
    assert lines[0].startswith("cotcli: ")
    for text in texts:
        assert text in done.err


@pytest.mark.parametrize(
    ("args", "texts"),
    [
        (["ask"], ["Missing argument", "cotcli ask --help"]),
        (["ask", QUESTION], ["Missing argument", "cotcli ask --help"]),
        (["ask", "", "a.png"], ["the question is blank"]),
        (["score", " \n", "a.png", "--answer", "A"], ["the question is blank"]),
        (["demo", "--question", "\t"], ["the question is blank"]),
        (["ask", QUESTION, "a.png", "--nonsense"], ["--nonsense", "cotcli ask --help"]),
        (["nonsense"], ["nonsense", "cotcli --help"]),
        (["ask", QUESTION, "a.png", "--temperature", "hot"], ["--temperature"]),
        (["ask", QUESTION, "a.png", "--temperature", "-1"], ["temperature must be 0 or more, not -1"]),
        (["ask", QUESTION, "a.png", "--seed", "-5"], ["seed must be 0 to 4294967294, not -5"]),
        (["ask", QUESTION, "a.png", "--show", "thoughts"], ["--show does not know thoughts", "all, raw"]),
        (["ask", QUESTION, "a.png", "--show", ""], ["--show does not know ''"]),
        (["ask", QUESTION, "a.png", "--show", "all", "--json"], ["--show is for text"]),
        (["ask", QUESTION, "a.png", "--stream-json", "--json"], ["exclude each other"]),
        (["ask", QUESTION, "a.png", "--stage-max-tokens", "reasoning"], ["STAGE=N", "reasoning=400"]),
        (["ask", QUESTION, "a.png", "--stage-max-tokens", "thoughts=4"], ["thoughts"]),
        (["ask", QUESTION, "a.png", "--choices", "A,,B"], ["choices"]),
        (["ask", QUESTION, "a.png", "--schema", "no-such-file.json"], ["no-such-file.json", "No such file"]),
        (["ask", QUESTION, "a.png", "--color", "blue"], ["--color"]),
        (["score", QUESTION, "a.png"], ["--answer"]),
        (["ask", QUESTION, "a.png", "--kv-type", "q8"], ["'--kv-type': 'q8' is not one of"]),
        (["ask", QUESTION, "a.png", "--stages", "some"], ["--stages"]),
        (["ask", QUESTION, "a.png", "--ctx", "0"], ["--ctx"]),
        (["ask", QUESTION, "a.png", "--ctx", "2147483648"], ["--ctx"]),
        (["ask", QUESTION, "a.png", "--threads", "0"], ["--threads"]),
        (["ask", QUESTION, "a.png", "--threads", "513"], ["--threads"]),
        (["ask", QUESTION, "a.png", "--gpu-layers", "-2"], ["--gpu-layers"]),
        (["ask", QUESTION, "a.png", "--gpu-layers", "2147483648"], ["--gpu-layers"]),
    ],
)
def test_usage(args: list[str], texts: list[str]) -> None:
    done = cotcli(*args)
    if {"--json", "--stream-json"} & set(args):
        assert '"ok": false' in done.out
        done = Finished(done.code, "", done.err)
    fails(done, 2, *texts)


def test_no_command_prints_help() -> None:
    done = cotcli()
    assert done.code == 2
    assert "Usage: cotcli" in done.err


@pytest.fixture
def not_a_picture(tmp_path: Path) -> Path:
    path = tmp_path / "notes.png"
    path.write_text("these are words")
    return path


def test_pictures(home: Path, picture: Path, not_a_picture: Path, tmp_path: Path) -> None:
    # No model is installed here: that pictures are complained of shows that they are read first.
    (tmp_path / "empty.png").touch()
    truncated = tmp_path / "truncated.png"
    truncated.write_bytes(picture.read_bytes()[:3000])
    for bad in (not_a_picture, tmp_path / "empty.png", truncated, tmp_path, tmp_path / "none.png", tmp_path / "*.gif"):
        fails(cotcli("ask", QUESTION, picture, bad), 3, bad.name)
    fails(cotcli("ask", QUESTION, "-", stdin=b"words"), 3, "stdin")


def test_score_takes_one_picture(home: Path, picture: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        shutil.copy(picture, tmp_path / name)
    fails(cotcli("score", QUESTION, tmp_path / "*.png", "--answer", "1"), 2, "is 2 pictures", str(tmp_path / "a.png"))


def test_no_model(home: Path, picture: Path) -> None:
    fails(
        cotcli("ask", QUESTION, picture), 4, "llava-cot is not installed", "cotcli model pull", "42.7 GB", "cotcli demo"
    )
    fails(cotcli("ask", QUESTION, picture, "--model", "x.gguf"), 4, "x.gguf", "cotcli model ls")
    fails(cotcli("score", QUESTION, picture, "--answer", "1", "--model", "none"), 4, "none")
    fails(cotcli("model", "show", "none"), 4, "none")


def test_broken_models(noise: Path, picture: Path, tmp_path: Path) -> None:
    vision = noise.name.removesuffix(".gguf") + ".mmproj.gguf"
    for broken in (noise.name, vision):
        folder = tmp_path / broken
        folder.mkdir()
        for name in (noise.name, vision):
            shutil.copy(noise.with_name(name), folder / name)
        whole = (folder / broken).read_bytes()
        for data in (whole[: len(whole) // 2], whole[:100], b"", b"GGUF" + bytes(200)):
            (folder / broken).write_bytes(data)
            fails(cotcli("ask", QUESTION, picture, "-m", folder), 4, broken)


def test_not_a_checkpoint(home: Path, tmp_path: Path) -> None:
    fails(cotcli("convert", tmp_path), 4, "config.json")
    fails(cotcli("convert", "no/such/folder"), 4, "there is no folder no/such/folder", "OWNER/REPO")
    fails(cotcli("convert", "no/repository"), 4, "there is no repository no/repository", "hf auth login")
    fails(cotcli("convert", "no/repository", "--type", "q3"), 2, "q3")
    fails(cotcli("convert", tmp_path, "--revision", "main"), 2, "--revision is for OWNER/REPO")
    fails(cotcli("convert", tmp_path, "--type", "q3"), 2, "q3")
    assert not list(tmp_path.rglob("*.gguf*"))


def test_convert_replaces_only_when_told(checkpoint: Path, noise: Path) -> None:
    before = noise.read_bytes()
    fails(cotcli("convert", checkpoint, "--out", noise.parent, "--type", "F32"), 2, "--force")
    done = cotcli("convert", checkpoint, "--out", noise.parent, "--type", "F32", "--force", "--quiet")
    assert (done.code, done.out, done.err) == (0, f"{noise}\n", "")
    assert noise.read_bytes() == before


def test_convert_installs_under_its_name(checkpoint: Path, home: Path, picture: Path) -> None:
    done = cotcli("convert", checkpoint, "--name", "mine", "--type", "q8_0")
    assert done.code == 0
    assert done.out == f"{home / 'models' / 'mine' / 'mine-Q8_0.gguf'}\n"
    done = cotcli("ask", QUESTION, picture, "-m", "mine", "--json", "--max-tokens", 3, "--threads", 1)
    assert json.loads(done.out)["model"]["name"] == "mine"
    listed = [
        json.loads(cotcli("model", "ls", "--json").out),
        json.loads(cotcli("model", "show", "mine", "--json").out),
    ]
    assert {"mine"} == {entry["name"] for entry in listed[0] if entry["quant"] == "Q8_0"} - {"demo"}
    assert listed[1]["pairs"][0]["language"] == done_path(home)
    assert "mine-Q8_0.gguf" in cotcli("model", "ls").out


@pytest.mark.parametrize("name", ["my model", "a/b", "a:b", "x.gguf", ""])
def test_convert_refuses_names_that_no_model_can_have(home: Path, tmp_path: Path, name: str) -> None:
    # The folder holds no checkpoint: that the name is complained of shows that it is looked at first.
    fails(cotcli("convert", tmp_path, "--name", name), 2, repr(name), "--name NAME")
    folder = tmp_path / "my model"
    folder.mkdir()
    fails(cotcli("convert", folder), 2, "'my model'", "--name NAME")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("models--Xkev--Llama-3.2V-11B-cot/snapshots/0123abcd", "llava-cot"),
        ("llama-3.2v-11b-COT", "llava-cot"),
        ("models--someone--Mine/snapshots/0123abcd", "Mine"),
    ],
)
def test_convert_knows_the_repository(checkpoint: Path, home: Path, tmp_path: Path, folder: str, name: str) -> None:
    source = tmp_path / folder
    shutil.copytree(checkpoint, source)
    done = cotcli("convert", source, "--type", "q8_0", "--threads", 1)
    assert done.out == f"{home / 'models' / name / name}-Q8_0.gguf\n", done.err


def done_path(home: Path) -> str:
    return str(home / "models" / "mine" / "mine-Q8_0.gguf")


def valid(done: Finished, kind: str = "record") -> dict[str, Any]:
    """The one record on stdout."""
    [line] = done.out.splitlines()
    value: dict[str, Any] = json.loads(line)
    Draft202012Validator({**json_schema(), "anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(value)
    return value


def test_errors_are_records_too(home: Path, picture: Path, not_a_picture: Path) -> None:
    for args, code, id in (
        (["ask", QUESTION, not_a_picture, "--json"], "image", str(not_a_picture)),
        (["ask", QUESTION, picture, "--json"], "model_not_found", None),
        (["ask", QUESTION, picture, "--json", "--top-p", "7"], "usage", None),
        (["ask", QUESTION, picture, "--json", "--nonsense"], "usage", None),
        (["ask", "--json"], "usage", None),
        (["score", QUESTION, not_a_picture, "--json", "--answer", "1"], "image", str(not_a_picture)),
    ):
        done = cotcli(*args)
        record = valid(done)
        assert (record["ok"], record["id"], record["error"]["code"]) == (False, id, code)
        assert done.code == {"image": 3, "model_not_found": 4, "usage": 2}[code]
        assert str(record["error"]["message"]) in done.err
    event = valid(cotcli("ask", QUESTION, not_a_picture, "--stream-json"), "event")
    assert event["event"] == "result"


def test_no_conclusion(noise: Path, picture: Path) -> None:
    args = ["ask", QUESTION, picture, "-m", noise, "--threads", 1, "--temperature", 0, "--max-tokens", 5]
    fails(cotcli(*args), 6, "the answer was cut after 5 tokens", "--max-tokens 5")
    done = cotcli(*args, "--json")
    record = valid(done)
    assert done.code == 6
    assert record["raw"] and record["answer"] == ""
    assert record["usage"]["completion_tokens"] == 5
    assert record["usage"]["image_tiles"] == 3  # of 28 pixels each, for 90x40


def test_without_stages_all_of_it_is_the_conclusion(noise: Path, picture: Path) -> None:
    args = ["ask", QUESTION, picture, "-m", noise, "--threads", 1, "--temperature", 0, "--max-tokens", 5, "--json"]
    record = json.loads(cotcli(*args, "--stages", "none").out)
    assert record["answer"] == record["stages"]["conclusion"] == record["raw"].strip() != ""
    assert record["finish_reason"] == "length"
    assert json.loads(cotcli(*args, "--stages", "tags").out)["stages"]["conclusion"] is None


def test_debug_shows_the_traceback(home: Path, picture: Path) -> None:
    done = cotcli("ask", QUESTION, picture, env={"COTCLI_DEBUG": "1"})
    assert done.code == 4
    assert "Traceback (most recent call last)" in done.err
    assert done.err.splitlines()[-2].startswith("cotcli: ")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pipe of known size")
@pytest.mark.parametrize("events_before", [0, 1, 30])
def test_interrupt_keeps_what_was_written(noise: Path, picture: Path, events_before: int) -> None:
    import fcntl

    args = ["ask", QUESTION, picture, "-m", noise, "--threads", 1, "--temperature", 0, "--ctx", 200_000]
    command = [*COMMAND, *args, "--max-tokens", 100_000, "--stream-json"]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)  # so that it has to wait for us in the middle of a write
    lines = [process.stdout.readline() for _ in range(events_before or 1)]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    events = [json.loads(line) for line in [*lines, *out.splitlines()]]
    assert process.returncode == 130
    assert err == b"cotcli: interrupted\n"
    for event in events:
        Draft202012Validator({**json_schema(), "anyOf": [{"$ref": "#/$defs/event"}]}).validate(event)
    record = events[-1]["record"]
    assert (record["finish_reason"], record["error"]["code"]) == ("interrupted", "interrupted")
    tokens = record["usage"]["completion_tokens"]
    assert tokens >= events_before
    # The record has all that was written: what the same question gives when it ends at that many tokens.
    whole = json.loads(cotcli(*args, "--max-tokens", tokens, "--json").out)["raw"]
    assert whole.startswith(record["raw"].rstrip("\ufffd")) and len(record["raw"]) >= len(whole) - 4
    assert len(record["raw"]) >= sum(len(event["text"]) for event in events if event["event"] == "delta")


def test_interrupt_before_the_model_is_there() -> None:
    process = subprocess.Popen(
        [*COMMAND, "ask", QUESTION, "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=3)  # it waits for a picture on stdin
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"cotcli: interrupted\n")
    assert json.loads(out)["error"]["code"] == "interrupted"


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
def test_a_reader_that_leaves_is_no_error(noise: Path, picture: Path) -> None:
    command = [*COMMAND, "ask", QUESTION, picture, "-m", noise, "--threads", 1, "--stream-json", "--max-tokens", 3000]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline().startswith(b'{"event"')
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    ("args", "redirected", "code", "out", "err"),
    [
        (["schema"], ">/dev/full", 5, "", "No space left on device"),
        (["ask", QUESTION, "none.png", "--json"], ">/dev/full", 3, "", "none.png: no such file"),
        (["ask", QUESTION, "none.png", "--json"], "2>/dev/full", 3, '"ok": false', ""),
        (["schema"], ">&-", 0, "", ""),
        (["schema"], "2>&-", 0, "$schema", ""),
        (["ask", QUESTION, "none.png", "--json"], ">&-", 3, "", "none.png: no such file"),
        (["ask", QUESTION, "none.png", "--json"], "2>&-", 3, '"ok": false', ""),
        (["ask", QUESTION, "none.png"], ">&- 2>&-", 3, "", ""),
    ],
)
def test_streams_that_take_nothing(args: list[str], redirected: str, code: int, out: str, err: str) -> None:
    if "/dev/full" in redirected and not os.path.exists("/dev/full"):
        pytest.skip("has no /dev/full")
    command = ["sh", "-c", f'"$@" {redirected}', "sh", *COMMAND, *args]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == code, done.stderr
    assert out in done.stdout and bool(out) == bool(done.stdout)
    assert err in done.stderr and done.stderr.count("\n") <= 2 and bool(err) == bool(done.stderr)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ImageError("x"), errors.ImageError),
        (KeyboardInterrupt(), errors.Interrupted),
        (MemoryError(), errors.ResourceError),
        (FileNotFoundError(2, "No such file or directory", "a.png"), errors.ResourceError),
        (OSError("disk"), errors.ResourceError),
        (ZeroDivisionError("division by zero"), errors.CotcliError),
    ],
)
def test_foreign_exceptions(error: BaseException, kind: type[errors.CotcliError]) -> None:
    mapped = known(error)
    assert type(mapped) is kind
    assert "\n" not in mapped.message and mapped.message
