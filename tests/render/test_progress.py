"""The progress line on a real terminal that is stderr's alone, frame by frame."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from tests.cli.process import Terminal, environment, read_all

# Each phase is drawn when it changes, not when the clock says so.
SCRIPT = """
from cotcli.cli.output import OutputOptions, make_progress
line = make_progress(OutputOptions())
def show(phase, done, total, stage=None):
    line.stage = stage
    line.update(phase, done, total)
    line._progress.refresh()
show("load", 30, 100)
show("image", 0, 40)
show("image", 40, 40)
show("prompt", 0, 20)
show("decode", 1, 2048)
show("decode", 300, 2048, "reasoning")
line.hide()
"""
PHASES = [
    "Loading the model",
    "Encoding the picture, layer 1/40",
    "Encoding the picture, layer 40/40",
    "Reading the question",
    "Writing, 1 token",
    "Reasoning, 300 tokens",
]


def run(columns: int, env: dict[str, str]) -> str:
    terminal = Terminal(columns)
    command = [sys.executable, "-c", SCRIPT]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal.inner, env=environment(env)) as process:
        os.close(terminal.inner)
        shown = read_all([terminal.outer])[terminal.outer]
    assert process.returncode == 0
    return shown


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("env", [{}, {"NO_COLOR": "1"}, {"PYTHONIOENCODING": "ascii"}], ids=["colour", "none", "ascii"])
def test_one_line_that_fits_and_is_wiped(columns: int, env: dict[str, str]) -> None:
    shown = run(columns, env)
    frames = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", frame).rstrip() for frame in re.split("[\r\n]", shown)]
    assert max(map(cell_len, frames)) <= columns
    told = " ".join(frame for frame in frames if frame)
    positions = [told.find(phase) for phase in PHASES]
    assert -1 not in positions and positions == sorted(positions)
    assert bool(re.search(r"\x1b\[[0-9;]+m", shown)) is ("NO_COLOR" not in env)
    assert ("\\u" in shown, shown.isascii()) == (False, "PYTHONIOENCODING" in env)
    assert shown.rstrip().endswith("\x1b[2K")


@pytest.mark.skipif(os.name == "nt", reason="POSIX terminals")
def test_columns_come_before_the_terminals_own() -> None:
    frames = re.split("[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", run(120, {"COLUMNS": "40"})))
    assert 30 < max(map(cell_len, frames)) <= 40
