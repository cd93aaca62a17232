"""`cotcli model pull` killed with SIGKILL at random instants and started again; `benchmarks.kills` is the command."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.hub_server import Hub

REPO = "someone/bundled"
_MODELS = f'[models.bundled]\nrepo = "{REPO}"\ndefault_quant = "Q8_0"\n'
_COMMAND = [sys.executable, "-m", "cotcli", "model", "pull", "bundled", "--quiet", "--threads", "1"]


@dataclass(frozen=True)
class PullKills:
    """What was seen.

    Attributes:
        finished, differing: pulls that came to their end, and those of them whose files were not, byte for byte and
            with nothing beside them, those of an undisturbed one.
        phases: kills by how far the pull had come.
        seconds: how long an undisturbed run takes.
        sent: bytes that the server sent for one pull, undisturbed and on average.
    """

    kills: int
    finished: int
    differing: int
    phases: Mapping[str, int]
    seconds: float
    sent: tuple[int, int]


def pull_killed(folder: Path, hub: Hub, kills: int, seed: int) -> PullKills:
    """Kills pulls of `REPO`, which `hub` serves, in `folder`, which holds no homes yet.

    Instants are drawn evenly from the time that an undisturbed run takes, so they fall into every phase, restarts as
    well as last steps.

    Raises:
        RuntimeError: a pull ended with an exit code other than 0.
    """
    rng = random.Random(seed)
    hub.bytes_sent = 0
    begin = time.perf_counter()
    _ended(_start(folder / "undisturbed", hub), None)
    seconds, undisturbed = time.perf_counter() - begin, hub.bytes_sent
    expected = _files(folder / "undisturbed")
    home = folder / "killed"
    hub.bytes_sent = n_kills = finished = differing = 0
    phases: Counter[str] = Counter()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("kills", total=kills)
        while n_kills < kills:
            # After the last kill it is left in peace.
            while not _ended(_start(home, hub), rng.uniform(0, seconds) if n_kills < kills else None):
                n_kills += 1
                phases[_phase(home)] += 1
                progress.update(task, completed=n_kills)
            finished += 1
            differing += _files(home) != expected
            shutil.rmtree(home)
    return PullKills(n_kills, finished, differing, dict(phases), seconds, (undisturbed, hub.bytes_sent // finished))


def _start(home: Path, hub: Hub) -> subprocess.Popen[bytes]:
    home.mkdir(parents=True, exist_ok=True)
    (home / "models.toml").write_text(_MODELS, encoding="utf-8")
    env = {**os.environ, "COTCLI_HOME": str(home), "HF_ENDPOINT": hub.url, "HF_HOME": str(home.parent / "huggingface")}
    return subprocess.Popen(_COMMAND, env=env, stdout=subprocess.DEVNULL)


def _ended(process: subprocess.Popen[bytes], seconds: float | None) -> bool:
    """Whether it came to its end in that time; else it is killed."""
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
        if code < 0:
            return False
    if code:
        raise RuntimeError(f"the pull ended with exit code {code}")
    return True


def _files(home: Path) -> dict[str, bytes]:
    return {str(path.relative_to(home)): path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file()}


def _phase(home: Path) -> str:
    """How far a killed run had come, by what it left."""
    folder = home / "models" / "bundled"
    if (folder / "bundled-Q8_0.gguf").exists():
        return "installed"
    work = folder / "bundled-Q8_0.pull"
    try:
        lines = (work / "journal.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "settings fetched" if any(work.rglob("*")) else "nothing yet"
    return "all written" if any("finishing" in line for line in lines) else f"{max(0, len(lines) - 1)} shards"
