"""What a command takes besides computing: time to start, to load, and memory.

    python -m benchmarks.startup PAIR picture.jpg --rounds 5

`cotcli --help`; `cotcli ask` about a drawn picture with the bundled model, less what its record says that loading,
picture, prompt and answer took; and the same command with PAIR, whose load and largest memory are what count. A picture
of a minute or more is encoded once: later rounds find it in a cache of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, add_json_argument, report
from cotcli.registry import resolve
from cotcli.shapes.scenes import draw, make_scene

_QUESTION = "What is in this picture?"
_HEADROOM_GB = 1.5


@dataclass(frozen=True)
class Run:
    """A command that has ended: seconds, the most memory it held in bytes, and its output."""

    seconds: float
    peak: int
    out: str


def run(*args: str | Path, home: Path) -> Run:
    """Runs `cotcli` with files of its own below `home`.

    Raises:
        RuntimeError: it failed; says what it said.
    """
    command = [sys.executable, "-m", "cotcli", *map(str, args)]
    environment = {**os.environ, "COTCLI_HOME": str(home)}
    begin = time.perf_counter()
    with (
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
        subprocess.Popen(command, stdout=out, stderr=err, env=environment) as process,
    ):
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode not in (0, 6):  # 6: cut by --max-tokens
            raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{err.read()}")
        return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), out.read())


def measure(model: str, picture: Path, rounds: int, max_tokens: int) -> list[Figure]:
    """All of it; the model's part is measured `rounds` times too, with the picture cached after the first."""
    files = resolve(model)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        pair = f"{files.language.resolve()},{files.mmproj.resolve()}"  # names mean nothing in a home of its own
        drawn = home / "drawn.png"
        draw(make_scene(0)).save(drawn)
        helps = tuple(run("--help", home=home).seconds for _ in range(rounds))
        overheads = []
        for _ in range(rounds):
            ended = run("ask", _QUESTION, drawn, "--model", "demo", "--json", home=home)
            overheads.append(ended.seconds - _engine_seconds(json.loads(ended.out)))
        ask = ["ask", _QUESTION, str(picture.resolve()), "--model", pair, "--json", "--max-tokens", str(max_tokens)]
        large = [run(*ask, home=home) for _ in range(rounds)]
    records = [json.loads(ended.out) for ended in large]
    weights = (files.language.stat().st_size + files.mmproj.stat().st_size) / 1e9
    return [
        Figure("cotcli --help", helps, "s", at_most=0.25),
        Figure("cotcli ask with the bundled model, outside the engine", tuple(overheads), "s", at_most=0.5),
        Figure("load to the first graph", tuple(record["timing_ms"]["load"] / 1e3 for record in records), "s", 5.0),
        Figure("the picture, the first time", (records[0]["timing_ms"]["image"] / 1e3,), "s"),
        Figure("largest memory, with the picture encoded", (large[0].peak / 1e9,), "GB", weights + _HEADROOM_GB),
        Figure("weights, both files", (weights,), "GB"),
    ]


def _engine_seconds(record: dict[str, Any]) -> float:
    return sum(float(record["timing_ms"][phase]) for phase in ("load", "image", "prompt", "decode")) / 1e3


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=8)
    add_json_argument(parser)
    given = parser.parse_args()
    report(measure(given.model, given.picture, given.rounds, given.max_tokens), given.json)


if __name__ == "__main__":
    main()
