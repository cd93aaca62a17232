"""stdout carries results and stderr the rest, whichever of them anyone looks at; and what a script sees of failures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cotcli.render.schema import json_schema
from tests.cli.process import COMMAND, ROOT, Finished, Terminal, cotcli, environment, read_all, screen

PICTURE = str(ROOT / "tests" / "data" / "scene.png")
MODEL = ("--model", "demo", "--threads", "1")
ASK = ("ask", "How many objects are there?", PICTURE, *MODEL)
COMMANDS = {
    "ask": ASK,
    "ask cut": (*ASK, "--max-tokens", "5"),
    "ask of two": (*ASK[:3], PICTURE, *MODEL),
    "ask json": (*ASK, "--json"),
    "ask events": (*ASK, "--stream-json"),
    "ask verbose": (*ASK, "-v"),
    "demo": ("demo", "--threads", "1"),
    "demo json": ("demo", "--threads", "1", "--json"),
    "score": ("score", *ASK[1:], "--answer", "1"),
    "score json": ("score", *ASK[1:], "--answer", "1", "--json"),
    "convert": ("convert", "CHECKPOINT", "--type", "q8_0", "--out", "OUT", "--force"),
    "model ls": ("model", "ls"),
    "model show": ("model", "show", "demo", "--json"),
    "schema": ("schema",),
    "config show": ("config", "show", "--origin"),
    "config path": ("config", "path"),
    "no model": ("ask", "How many?", PICTURE, "--json"),
    "usage": ("ask", "--nonsense"),
}
NOTES = {
    "ask cut": r"cotcli: the answer was cut in its summary after 5 tokens\nAllow more than --max-tokens 5\n",
    "ask verbose": r"cotcli: demo Q8_0, .*\.gguf, .*\.mmproj\.gguf\n",
    "demo": r"cotcli: demo:55: .*\ncotcli: (right|wrong): .*\n",
    "demo json": r"cotcli: demo:55: .*\ncotcli: (right|wrong): .*\n",
    "convert": r"cotcli: language .* MB, .*\.mmproj\.gguf .* MB\n",
    "no model": r"cotcli: the model llava-cot is not installed\n.*\n",
    "usage": r"cotcli: No such option.*--nonsense.*\n.*\n",
}


def run(args: tuple[str, ...], stdout: int | None = None, stderr: int | None = None) -> Finished:
    """With the streams given, or else pipes."""
    streams = [subprocess.PIPE if stream is None else stream for stream in (stdout, stderr)]
    done = subprocess.run([*COMMAND, *args], stdout=streams[0], stderr=streams[1], env=environment(), check=False)
    return Finished(done.returncode, (done.stdout or b"").decode(), (done.stderr or b"").decode())


def steady(text: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r'("(load|image|prompt|decode)": )[\d.]+', r"\1 0", text)


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
@pytest.mark.parametrize("name", COMMANDS)
def test_each_stream_alone(name: str, home: Path, checkpoint: Path, tmp_path: Path) -> None:
    places = {"CHECKPOINT": str(checkpoint), "OUT": str(tmp_path)}
    args = tuple(places.get(arg, arg) for arg in COMMANDS[name])
    both = run(args)
    assert re.fullmatch(NOTES.get(name, ""), both.err), both.err
    assert not re.search("[\x00-\x08\x0b-\x1f]", both.out + both.err), "neither escape codes nor carriage returns"
    only_out = run(args, stderr=subprocess.DEVNULL)
    assert (only_out.code, steady(only_out.out)) == (both.code, steady(both.out))
    only_err = run(args, stdout=subprocess.DEVNULL)
    assert (only_err.code, only_err.err) == (both.code, both.err)
    terminal = Terminal(80)
    with subprocess.Popen(
        [*COMMAND, *args], stdout=subprocess.PIPE, stderr=terminal.inner, env=environment()
    ) as process:
        os.close(terminal.inner)
        shown = read_all([terminal.outer])[terminal.outer]
        assert process.stdout is not None
        assert steady(process.stdout.read().decode()) == steady(both.out)
    # On a terminal there is progress besides, of which nothing stays.
    assert [row for row in map(str.rstrip, screen(shown)) if row] == both.err.splitlines()


def records(name: str, *args: str) -> list[Any]:
    """The lines of a command's stdout, each valid by the schema of its kind, which `cotcli schema` prints."""
    validator = Draft202012Validator(json_schema(name))
    values = [json.loads(line) for line in cotcli(*args).out.splitlines()]
    for value in values:
        validator.validate(value)
    return values


def test_every_record_is_valid(home: Path, tmp_path: Path) -> None:
    assert json.loads(cotcli("schema", "record").out) == json_schema("record")
    assert len(records("record", *COMMANDS["ask of two"], "--json")) == 2
    assert [record["ok"] for record in records("record", *COMMANDS["ask cut"], "--json")] == [False]
    assert [record["ok"] for record in records("record", *COMMANDS["demo json"])] == [True]
    assert len(records("event", *COMMANDS["ask events"])) > 8
    assert len(records("event", "demo", "--threads", "1", "--stream-json")) > 8
    assert len(records("score", *COMMANDS["score json"])) == 1
    (tmp_path / "words.png").write_text("words")
    for args in (COMMANDS["no model"], ("ask", "--json"), ("score", "Q", str(tmp_path / "words.png"), "--json")):
        assert [record["ok"] for record in records("record", *args)] == [False]
    answer = ("--model", "demo", "--schema", str(tmp_path / "none.json"), "--json")
    assert records("record", "ask", "Q", PICTURE, *answer)[0]["error"]["code"] == "usage"
    assert records("event", "ask", "Q", str(tmp_path / "words.png"), "--stream-json")[0]["event"] == "result"


_WITHOUT_A_MODULE = """
import sys
from cotcli.cli import main
sys.modules["cotcli.render.schema"] = None
sys.exit(main(["schema"]))
"""


def test_an_internal_error_is_exit_1() -> None:
    command = [sys.executable, "-c", _WITHOUT_A_MODULE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(
        r"cotcli: internal error: \w+: .*\nPlease report it with what COTCLI_DEBUG=1 prints\n", done.stderr
    )
