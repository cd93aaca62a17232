"""A conversion from a hub that is killed before each step that it takes on the disk, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.hub_server import Hub
from benchmarks.small_checkpoints import TINY, write_checkpoint
from convert import Repository, convert

REPO = "someone/tiny"
# Each conversion runs in a fork of one process, which has imported everything: that takes most of the time. Audit
# events come before what they announce, so a fork that ends in the n-th has taken n - 1 steps; os._exit leaves what
# SIGKILL would. Of downloads and shards every sixth step is taken; of the last shard's end and of installing, each.
STEPS = """
import os, sys, traceback
from pathlib import Path
from huggingface_hub import HfApi, get_session, hf_hub_url, hf_raise_for_status, try_to_load_from_cache
from convert import Repository, convert, tidy
import cotcli.hub, filelock, huggingface_hub.errors

get_session()

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree")

def run(out, last):
    taken = 0
    def on_event(event, args):
        nonlocal taken
        if event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) or event in CHANGES:
            taken += 1
            if taken == last:
                os._exit(9)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            sys.addaudithook(on_event)
            if (out / "tiny-Q8_0.gguf").exists():
                tidy(out / "tiny-Q8_0.gguf")  # as commands do
            else:
                convert(Repository("someone/tiny"), out, "q8_0", threads=1)
            code = 0
            if not last:
                print(taken, flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

folder = Path(sys.argv[1])
if len(sys.argv) == 2:
    sys.exit(run(folder, 0))
for last in map(int, sys.argv[2:]):
    codes = run(folder / str(last), last), run(folder / str(last), 0)
    assert codes == (9, 0), (last, codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are POSIX")
def test_killed_before_every_step(hub: Hub, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "tiny", replace(TINY, shards=3))
    hub.folders[REPO] = tmp_path / "tiny"
    expected = convert(Repository(REPO), tmp_path / "expected", "q8_0").language.parent
    content = {path.name: path.read_bytes() for path in expected.iterdir()}
    n_steps = int(_run(tmp_path / "undisturbed"))
    assert n_steps > 40
    steps = [*range(1, n_steps - 22, 6), *range(n_steps - 22, n_steps + 1)]
    _run(tmp_path / "killed", *steps)
    for step in steps:
        assert {path.name: path.read_bytes() for path in (tmp_path / "killed" / str(step)).iterdir()} == content, step


def _run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", STEPS, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
