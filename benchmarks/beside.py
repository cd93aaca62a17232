"""cotcli beside transformers and mistral.rs: the same weights, picture and question, phase by phase.

    python -m benchmarks.random_checkpoint CHECKPOINT --layers 5 --vision-layers 8 --global-layers 2
    python -m benchmarks.random_pair PAIR --type q4_k_m --layers 5 --vision-layers 8 --global-layers 2
    python -m benchmarks.beside CHECKPOINT PAIR picture.jpg --mistralrs-python VENV/bin/python

With the same seed both hold the same weights: here an eighth of the language side, one cross-attention layer among it,
and a quarter of the tower, 9.8 GB at float32. Below five layers of the tower not all states it hands on differ, which
mistral.rs does not take.

Each runtime answers in a process of its own, one after the other, round by round; ratios are taken within a round. All
libraries are imported before the first phase begins, and a text has been answered before the picture comes, so that
what is made at the first use is not counted as the picture's:

    load                     until a question can be asked; mistral.rs quantizes meanwhile (in-situ, Q4K)
    a token, no picture      of an answer to the question alone, mean of `--tokens`
    picture                  reading it, vision tower, projector
    prompt                   the question about it, with the picture's keys and values, to the first token's logits
    a token                  of the answer, mean of `--tokens`

A runtime that fails keeps the phases it has finished; the notes below the table say with which words it ended.
`benchmarks.beside_mistralrs` says which of them mistral.rs can do. transformers is in the extra `parity`; mistral.rs
(`pip install mistralrs`) is no dependency, not run by any test, and may live in another environment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, add_json_argument, report
from cotcli.registry import resolve

OURS = "cotcli"
PHASES = ("load", "a token, no picture", "picture", "prompt", "a token")
RIVALS = ("transformers", "mistralrs")
DTYPES = ("bfloat16", "float32")
QUESTION = "What is in this picture?"
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Run:
    """One runtime's process.

    Attributes:
        facts: what it noted: its ``version``, seconds of each of ``PHASES`` that it finished, ``prompt_tokens``; and
            the ids of all tokens of prompt and answer as ``ids``, if it tells.
        failure: the words with which it ended early, None if it did not.
    """

    facts: Mapping[str, Any]
    failure: str | None


def note(record: Path, **facts: Any) -> None:
    """Called in the processes, as soon as something is known."""
    with record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


def parse_arguments(description: str | None, *own: str) -> argparse.Namespace:
    """Of a runtime's process: those of its ``own``, and what all are given after them."""
    parser = argparse.ArgumentParser(description=description)
    for name in own:
        parser.add_argument(name)
    parser.add_argument("picture", type=Path)
    parser.add_argument("question")
    parser.add_argument("tokens", type=int)
    parser.add_argument("record", type=Path)
    return parser.parse_args()


def failure(stderr: str) -> str:
    """Of all that a process has said, why it failed: where Rust panicked and its message, or else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if " panicked at " in line:
            return " ".join([line[line.index("panicked at ") :], *lines[number + 1 : number + 2]])
    return lines[-1] if lines else ""


def run(command: Sequence[str | Path], limit: float) -> Run:
    """Runs one to its end, or for so many seconds; its last argument is the file for its notes."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        record.touch()
        with (Path(folder) / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
            arguments = [*map(str, command), str(record)]
            try:
                code = subprocess.run(
                    arguments, stdout=subprocess.DEVNULL, stderr=stderr, timeout=limit, cwd=_HERE.parent
                ).returncode
                stderr.seek(0)
                failed = None if code == 0 else failure(stderr.read()) or f"exit code {code}"
            except subprocess.TimeoutExpired:
                failed = f"stopped after {limit:g} s"
        facts: dict[str, Any] = {}
        for line in record.read_text(encoding="utf-8").splitlines():
            facts |= json.loads(line)
    return Run(facts, failed)


def commands(
    checkpoint: Path, pair: str, picture: Path, tokens: int, rivals: Sequence[str], dtypes: Sequence[str], python: Path
) -> dict[str, list[str | Path]]:
    """How each runtime is started, by the name it has in the table."""
    files = resolve(pair)
    checkpoint, picture = checkpoint.resolve(), picture.resolve()
    about: list[str | Path] = [picture, QUESTION, str(tokens)]
    named = f"{files.language.resolve()},{files.mmproj.resolve()}"
    started: dict[str, list[str | Path]] = {OURS: [sys.executable, "-m", "benchmarks.beside_cotcli", named, *about]}
    if "transformers" in rivals:
        module = [sys.executable, "-m", "benchmarks.beside_transformers"]
        started |= {f"transformers {dtype}": [*module, checkpoint, dtype, *about] for dtype in dtypes}
    if "mistralrs" in rivals:
        started["mistral.rs Q4K"] = [python, _HERE / "beside_mistralrs.py", checkpoint, *about]
    return started


def measure(started: Mapping[str, Sequence[str | Path]], rounds: int, limit: float) -> dict[str, list[Run]]:
    """Every runtime's runs, one a round, each of at most so many seconds.

    Raises:
        RuntimeError: cotcli failed: there is nothing to compare with.
    """
    runs: dict[str, list[Run]] = {name: [] for name in started}
    for _ in range(rounds):
        for name, command in started.items():
            runs[name].append(run(command, limit))
            if name == OURS and runs[name][-1].failure is not None:
                raise RuntimeError(f"{OURS}: {runs[name][-1].failure}")
    return runs


def figures(runs: Mapping[str, Sequence[Run]]) -> list[Figure]:
    """Seconds of each phase, and how many times cotcli's they are, of the rounds in which it was finished."""
    found = []
    for phase in PHASES:
        for name, done in runs.items():
            rounds = [number for number, one in enumerate(done) if phase in one.facts]
            seconds = tuple(float(done[number].facts[phase]) for number in rounds)
            if not seconds:
                continue
            found.append(Figure(f"{phase}, {name}", seconds, "s"))
            if name != OURS:
                ours = [float(runs[OURS][number].facts[phase]) for number in rounds]
                ratios = tuple(their / our for their, our in zip(seconds, ours, strict=True))
                found.append(Figure(f"{phase}, {name}: times cotcli's", ratios))
    return found


def notes(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """A line about each runtime, and one about each way in which it failed."""
    lines = []
    for name, done in runs.items():
        facts = done[0].facts
        if "version" in facts:
            lines.append(f"{name}: {facts['version']}, prompt of {facts.get('prompt_tokens', '?')} tokens")
        for one in done:
            if one.failure is not None:
                finished = [phase for phase in PHASES if phase in one.facts]
                where = f"after '{finished[-1]}'" if finished else "before the first phase's end"
                lines.append(f"{name} failed {where}: {one.failure}")
    return list(dict.fromkeys(lines))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder as on the hub, with as few layers as fit in memory")
    parser.add_argument("model", help="the pair made from it: a name or a path, as for cotcli --model")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--with", dest="rivals", nargs="+", choices=RIVALS, default=list(RIVALS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES), help="of transformers' weights")
    parser.add_argument("--mistralrs-python", type=Path, default=Path(sys.executable), metavar="PYTHON")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--limit", type=float, default=3600.0, help="most seconds of one runtime in one round")
    add_json_argument(parser)
    given = parser.parse_args()
    python = given.mistralrs_python.absolute()  # a virtual environment's is a link, and stays one
    started = commands(given.checkpoint, given.model, given.picture, given.tokens, given.rivals, given.dtypes, python)
    runs = measure(started, given.rounds, given.limit)
    report(figures(runs), given.json, notes(runs))


if __name__ == "__main__":
    main()
