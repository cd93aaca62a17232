"""One answer on its way to the output: what Ctrl-C may cost, and what cannot be shown."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import signal
from pathlib import Path
from typing import Any

import pytest

import cotcli as package
from cotcli.cli.answering import Job, LoadOptions, answer_all
from cotcli.cli.output import OutputOptions
from cotcli.stages import STAGES
from tests.cli.process import ROOT, cotcli

PICTURE = ROOT / "tests" / "data" / "scene.png"
QUESTION = "How many objects are there?"


class Interrupting(io.StringIO):
    """A file that is written to while Ctrl-C comes: in the middle of its n-th line."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self._left = line

    def write(self, text: str) -> int:
        self._left -= 1
        if self._left == 0:
            super().write(text[: len(text) // 2])
            signal.raise_signal(signal.SIGINT)
            return super().write(text[len(text) // 2 :])
        return super().write(text)


def run(monkeypatch: pytest.MonkeyPatch, line: int, pictures: int = 1) -> tuple[int, list[dict[str, Any]]]:
    """The exit code, and what was written."""
    out = Interrupting(line)
    monkeypatch.setattr("sys.stdout", out)
    output = OutputOptions(stream_json=True, quiet=True)
    code = answer_all(Job(QUESTION, [str(PICTURE)] * pictures, LoadOptions("demo", threads=1), output=output))
    return code, [json.loads(line) for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("line", [1, 2, 7, 30])
def test_events_add_up_to_the_record_whenever_ctrl_c_comes(monkeypatch: pytest.MonkeyPatch, line: int) -> None:
    code, events = run(monkeypatch, line)
    assert code == 130
    record = events[-1]["record"]
    assert record["finish_reason"] == "interrupted"
    for stage in STAGES:
        text = "".join(event["text"] for event in events if event["event"] == "delta" and event["stage"] == stage)
        assert text.strip() == (record["stages"][stage] or "")
    assert [event["event"] for event in events].count("result") == 1


def test_ctrl_c_that_is_too_late_for_an_answer_stops_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    _, events = run(monkeypatch, 0)
    code, again = run(monkeypatch, len(events))
    assert (code, [event["event"] for event in again]) == (0, [event["event"] for event in events])
    code, again = run(monkeypatch, len(events), pictures=2)
    assert (code, [event["event"] for event in again]) == (130, [event["event"] for event in events])
    assert again[-1]["record"]["ok"]


def test_stages_that_no_one_writes_cannot_be_shown(home: Path) -> None:
    ask = ("ask", QUESTION, PICTURE, "--model", "demo", "--stages", "none", "--show")
    done = cotcli(*ask, "summary,caption")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "cotcli: --show summary,caption: with --stages none, demo writes only conclusion\n"
        "To see what it writes: --show conclusion\n"
    )
    assert cotcli(*ask, "summary,conclusion", "--threads", 1).out.startswith("CONCLUSION\n")


def test_a_data_url_goes_by_its_hash(tmp_path: Path) -> None:
    data = PICTURE.read_bytes()
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    name = f"data:image/png;sha256={hashlib.sha256(data).hexdigest()}"
    record = json.loads(cotcli("ask", QUESTION, url, "-m", "demo", "--threads", 1, "--max-tokens", 2, "--json").out)
    assert record["id"] == record["image"]["path"] == name
    score = cotcli("score", QUESTION, url, "-m", "demo", "--threads", 1, "--answer", "1", "--json")
    assert json.loads(score.out)["id"] == name
    broken = "data:image/png;base64," + "A" * 5000 + "!"
    done = cotcli("ask", QUESTION, broken, "--json")
    record = json.loads(done.out)
    assert (done.code, record["error"]["code"]) == (3, "image")
    assert record["id"].startswith("data:image/png;base64,AAAA") and len(record["id"]) < 130 and len(done.err) < 300
    with package.load("demo", threads=1) as model:
        image = model.ask(url, QUESTION, max_tokens=1).image
    assert image is not None and image.path == name
