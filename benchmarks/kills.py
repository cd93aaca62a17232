"""What is left of commands that are killed with SIGKILL at random instants and started again.

    python -m benchmarks.kills batch --pictures 60 --kills 200
    python -m benchmarks.kills pull --kills 200

`batch`: a batch of drawn pictures, with answers of one token, killed and started again until it ends; when it ends,
another begins, until there have been so many kills; the last one may end. Counted are kills that left some answers but
not all, so that the next run had to go on from them; finished batches whose records, or table, differ from those of an
undisturbed run in more than their times; records that were whole at a kill and are not there byte for byte in the end,
so that they were lost or answered again; and files that are left over.

`pull`: the bundled model's checkpoint, in shards, from a hub on loopback: see `benchmarks.pull_kills`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from benchmarks.bundled_checkpoint import write_bundled_checkpoint
from benchmarks.hub_server import Hub
from benchmarks.pull_kills import REPO, pull_killed
from cotcli.cli.drawn import draw_one

_QUESTION = "Is there a circle?"
# Each picture gets a whole answer, and soon.
_BRIEF = ("--stages", "none", "--choices", "yes,no")


@dataclass(frozen=True)
class Kills:
    """What was seen: kills, those of them that left part of the answers, and so on.

    `seconds` is how long an undisturbed run takes.
    """

    kills: int
    went_on: int
    finished: int
    differing: int
    lost: int
    left_over: int
    seconds: float


def batch_killed(
    folder: Path,
    pictures: int,
    kills: int,
    seed: int,
    output: str = "out.jsonl",
    parallel: int = 1,
) -> Kills:
    """Kills batches in `folder`, which is to be empty.

    Raises:
        RuntimeError: a batch ended with another exit code than 0: every picture is to be answered.
    """
    rng = random.Random(seed)
    env = {**os.environ, "COTCLI_HOME": str(folder / "home")}
    (folder / "pictures").mkdir()
    for number in range(pictures):
        (folder / "pictures" / f"{number:04}.png").write_bytes(draw_one(number).png)
    command = [sys.executable, "-m", "cotcli", "batch", _QUESTION, str(folder / "pictures"), "--model", "demo"]
    command += [
        "--parallel",
        str(parallel),
        "--threads",
        "1",
        *_BRIEF,
        "--quiet",
        "--output",
        str(folder / "run" / output),
    ]
    # The undisturbed run twice: what is written once need not be written again by the others, such as pictures' states.
    for _ in range(2):
        shutil.rmtree(folder / "run", ignore_errors=True)
        (folder / "run").mkdir()
        begin = time.perf_counter()
        _until_end(command, env)
        seconds = time.perf_counter() - begin
    expected, names = _timeless(folder / "run"), sorted(os.listdir(folder / "run"))
    n_kills = went_on = finished = differing = lost = left_over = 0
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("kills", total=kills)
        while n_kills < kills:
            shutil.rmtree(folder / "run")
            (folder / "run").mkdir()
            seen: set[bytes] = set()
            while n_kills < kills and _killed(command, env, rng.uniform(0, seconds)):
                n_kills += 1
                progress.update(task, completed=n_kills)
                lines = set(_whole_lines(folder / "run"))
                went_on += 0 < len(lines) < pictures
                seen |= lines
            _until_end(command, env)  # at once, if it has ended already
            finished += 1
            differing += _timeless(folder / "run") != expected
            lost += len(seen - set(_whole_lines(folder / "run")))
            left_over += sorted(os.listdir(folder / "run")) != names
    return Kills(n_kills, went_on, finished, differing, lost, left_over, seconds)


def _killed(command: list[str], env: dict[str, str], seconds: float) -> bool:
    """Runs a command for that long; whether it was killed before it ended."""
    process = subprocess.Popen(command, env=env)
    try:
        code = process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait() < 0
    _check(code)
    return False


def _until_end(command: list[str], env: dict[str, str]) -> None:
    _check(subprocess.run(command, env=env, check=False).returncode)


def _check(code: int) -> None:
    if code:
        raise RuntimeError(f"the batch ended with exit code {code}")


def _whole_lines(folder: Path) -> Iterator[bytes]:
    for path in folder.glob("*.jsonl"):
        yield from (line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n"))


def _timeless(folder: Path) -> list[dict[str, Any]]:
    """Records, and the rows of a table, without their times."""
    records: list[dict[str, Any]] = [json.loads(line) for line in _whole_lines(folder)]
    for path in folder.glob("*.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            records += csv.DictReader(file)
    for path in folder.glob("*.parquet"):
        import pyarrow.parquet

        records += pyarrow.parquet.read_table(path).to_pylist()
    return [{key: record[key] for key in record if not key.startswith("timing_ms")} for record in records]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    batch = commands.add_parser("batch")
    batch.add_argument("--pictures", type=int, default=60)
    batch.add_argument("--kills", type=int, default=200)
    batch.add_argument("--seed", type=int, default=0)
    batch.add_argument("--output", default="out.jsonl", help="out.csv and out.parquet make tables")
    batch.add_argument("--parallel", type=int, default=1, help="answers at once; above 1, texts may differ by rounding")
    pull = commands.add_parser("pull")
    pull.add_argument("--shards", type=int, default=6)
    pull.add_argument("--kills", type=int, default=200)
    pull.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        wrong = _pull(Path(name), given) if given.command == "pull" else _batch(Path(name), given)
    raise SystemExit(wrong)


def _batch(folder: Path, given: argparse.Namespace) -> bool:
    """Prints what was seen; whether anything was wrong."""
    seen = batch_killed(folder, given.pictures, given.kills, given.seed, given.output, given.parallel)
    print(json.dumps(asdict(seen)))
    return bool(seen.differing or seen.lost or seen.left_over or not seen.went_on)


def _pull(folder: Path, given: argparse.Namespace) -> bool:
    """As `_batch`."""
    write_bundled_checkpoint(folder / "checkpoint", given.shards)
    hub = Hub({REPO: folder / "checkpoint"}, delay=0.005)  # a network, for kills to fall into downloads
    seen = pull_killed(folder, hub, given.kills, given.seed)
    print(json.dumps(asdict(seen)))
    return bool(seen.differing)


if __name__ == "__main__":
    main()
