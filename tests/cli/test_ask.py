"""The bundled model on a stored picture, in every form of output, as processes."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from rich.cells import cell_len

from cotcli.render.schema import json_schema
from cotcli.stages import STAGES
from tests.cli.process import ROOT, cotcli, cotcli_on_terminal, screen

PICTURE = ROOT / "tests" / "data" / "scene.png"
QUESTION = "Subtract all yellow squares. Subtract all big circles. How many objects are left?"
ASK = ("ask", QUESTION, PICTURE, "--model", "demo", "--threads", 1)


def validate(value: Any, kind: str) -> None:
    Draft202012Validator({**json_schema(), "anyOf": [{"$ref": f"#/$defs/{kind}"}]}).validate(value)


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """What `--json` says; the demo model is greedy by default, so every run writes the same."""
    done = cotcli(*ASK, "--json")
    assert (done.code, done.err) == (0, "")
    [line] = done.out.splitlines()
    value: dict[str, Any] = json.loads(line)
    return value


def test_record(record: dict[str, Any]) -> None:
    validate(record, "record")
    assert record["ok"] and record["finish_reason"] == "stop"
    assert all(record["stages"][stage] for stage in STAGES)
    assert record["answer"] == record["stages"]["conclusion"]
    assert record["question"] == QUESTION
    assert record["id"] == record["image"]["path"] == str(PICTURE)
    assert record["model"]["name"] == "demo" and record["model"]["sha256"]
    assert all(record["timing_ms"][step] > 0 for step in ("load", "image", "prompt", "decode"))


def test_a_pipe_gets_the_conclusion(record: dict[str, Any]) -> None:
    done = cotcli(*ASK)
    assert (done.code, done.out, done.err) == (0, record["answer"] + "\n", "")


def test_a_pipe_gets_what_is_asked_for(record: dict[str, Any]) -> None:
    stages = record["stages"]
    assert cotcli(*ASK, "--show", "caption").out == stages["caption"] + "\n"
    assert cotcli(*ASK, "--show", "conclusion,summary").out == (
        f"SUMMARY\n{stages['summary']}\n\nCONCLUSION\n{stages['conclusion']}\n"
    )
    assert cotcli(*ASK, "--show", "raw").out == record["raw"] + "\n"


def test_events_add_up_to_the_record(record: dict[str, Any]) -> None:
    events = [json.loads(line) for line in cotcli(*ASK, "--stream-json").out.splitlines()]
    for event in events:
        validate(event, "event")
    for stage in STAGES:
        text = "".join(event["text"] for event in events if event["event"] == "delta" and event["stage"] == stage)
        assert text.strip() == record["stages"][stage]
    starts = [event["stage"] for event in events if event["event"] == "stage_start"]
    assert starts == list(STAGES)
    last = events[-1]
    assert last["event"] == "result"
    assert {**last["record"], "timing_ms": None} == {**record, "timing_ms": None}


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["colour", "NO_COLOR", "dumb"])
def test_a_terminal_gets_the_staged_view(record: dict[str, Any], columns: int, env: dict[str, str]) -> None:
    done = cotcli_on_terminal(*ASK, columns=columns, env=env)
    assert done.code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", done.out)
    assert (text == done.out) is bool(env), "escape codes for colour, and no others"
    assert "\x1b" not in text and "\r" not in text
    lines = text.splitlines()
    assert max(map(cell_len, lines)) == columns
    words = re.sub(r"[─│╭╮╰╯]", " ", text).split()
    expected = [word for stage in STAGES for word in (stage.capitalize(), *record["stages"][stage].split())]
    assert words[: len(expected)] == expected
    assert re.search(r"\ndemo · \w+ · CPU · load [^╰]* s[ ·\n]+\d+ tokens in .* s[ ·\n]+\S+ tokens/s\n$", text)


def test_the_view_follows_columns_and_options(record: dict[str, Any]) -> None:
    narrow = cotcli_on_terminal(*ASK, "--show", "conclusion", "--quiet", columns=120, env={"COLUMNS": "30"})
    box = f"╭─ Conclusion {'─' * 15}╮\n│ {record['answer']:26} │\n╰{'─' * 28}╯\n"
    assert re.sub(r"\x1b\[[0-9;]*m", "", narrow.out) == box
    assert narrow.err == ""
    never = cotcli_on_terminal(*ASK, "--show", "conclusion", "--quiet", "--color", "never", columns=30)
    assert never.out == box
    piped = cotcli(*ASK, "--show", "conclusion", "--color", "always", "--quiet", env={"COLUMNS": "30"})
    assert re.sub(r"\x1b\[[0-9;]*m", "", piped.out) == box != piped.out


def test_progress_is_wiped_before_anything_is_written() -> None:
    done = cotcli_on_terminal(*ASK)
    assert "Loading the model" in done.err
    assert done.err.rstrip().endswith("\x1b[2K"), "the line is erased at the end"
    assert cotcli_on_terminal(*ASK, env={"TERM": "dumb"}).err == ""


def test_progress_and_view_share_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "other.png").write_bytes(PICTURE.read_bytes())
    args = ("ask", QUESTION, PICTURE, tmp_path / "other.png", *ASK[3:])
    mixed, apart = (cotcli_on_terminal(*args, columns=200, one=one) for one in (True, False))
    assert "Loading the model" in mixed.out
    timing = re.compile(r"[\d.]+ (s\b|tokens/s)")
    assert [timing.sub("", line) for line in screen(mixed.out)] == [timing.sub("", line) for line in screen(apart.out)]


def test_several_pictures(record: dict[str, Any], tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(PICTURE.read_bytes())
    args = ("ask", QUESTION, PICTURE, other, "--model", "demo", "--threads", 1)
    assert cotcli(*args).out == f"==> {PICTURE} <==\n{record['answer']}\n\n==> {other} <==\n{record['answer']}\n"
    records = [json.loads(line) for line in cotcli(*args, "--json").out.splitlines()]
    assert [one["id"] for one in records] == [str(PICTURE), str(other)]
    assert records[1]["timing_ms"]["load"] == 0
    assert f"━━ {other} ━" in "\n".join(screen(cotcli_on_terminal(*args, columns=200).out))


def test_stdin_and_odd_names(record: dict[str, Any], tmp_path: Path) -> None:
    done = cotcli("ask", QUESTION, "-", "--model", "demo", "--threads", 1, stdin=PICTURE.read_bytes())
    assert done.out == record["answer"] + "\n"
    if os.name != "nt":
        odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\n\xc3\xa9.png")
        Path(odd).write_bytes(PICTURE.read_bytes())
        done = cotcli("ask", QUESTION, odd, "--model", "demo", "--threads", 1, "--json", env={"LC_ALL": "C"})
        assert json.loads(done.out)["id"].encode("utf-8", "surrogateescape") == os.fsencode(odd)


def test_constrained_conclusions(tmp_path: Path) -> None:
    choice = json.loads(cotcli(*ASK, "--json", "--choices", "left, right").out)
    assert choice["answer"] in ("left", "right")
    assert choice["params"]["choices"] == ["left", "right"]
    schema = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    done = cotcli(*ASK, "--schema", tmp_path / "schema.json")
    Draft202012Validator(schema).validate(json.loads(done.out))


def test_seeds() -> None:
    sampled = (*ASK, "--show", "raw", "--temperature", 3)
    one, again, other = (cotcli(*sampled, "--seed", seed).out for seed in (1, 1, 2))
    assert one == again != other
    drawn = {json.loads(cotcli(*ASK, "--json", "--seed", -1).out)["params"]["seed"] for _ in range(2)}
    assert len(drawn) == 2


def test_stage_limit(record: dict[str, Any]) -> None:
    cut = json.loads(cotcli(*ASK, "--json", "--stage-max-tokens", "caption=4").out)
    assert record["stages"]["caption"].startswith(cut["stages"]["caption"])
    assert cut["finish_reason"] == "stage_length"
    assert cut["params"]["stage_max_tokens"] == {"caption": 4}


def test_score(record: dict[str, Any]) -> None:
    done = cotcli("score", *ASK[1:], "--answer", record["raw"], "--json")
    score = json.loads(done.out)
    validate(score, "score")
    assert "".join(token["token"] for token in score["tokens"]) == record["raw"]
    assert score["perplexity"] < 2, "a trained model is sure of what it writes greedily"
    text = cotcli("score", *ASK[1:], "--answer", record["raw"]).out.splitlines()
    assert len(text) == len(score["tokens"]) + 1
    assert text[-1].split() == [
        f"{score['logprob']:.5f}",
        *f"sum of {len(text) - 1} tokens, perplexity {score['perplexity']:.5g}".split(),
    ]


def test_verbose_names_the_files_and_shows_the_log() -> None:
    assert re.search(r"cotcli: demo \w+, .*demo-.*\.gguf", cotcli(*ASK, "-v").err)
    assert "llama_model_loader" in cotcli(*ASK, "-vv").err
