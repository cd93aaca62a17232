"""The wheel, built and run from outside the working tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from cotcli.native.library import LLAMA_CPP_PYTHON, PINNED
from cotcli.specs import specs
from tests.cli.process import ROOT, environment


def test_the_release_of_the_library_is_written_once() -> None:
    """In one source, and as pyproject.toml has it."""
    assert f'"{PINNED}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    sources = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "cotcli").rglob("*.py")}
    assert [name for name, text in sources.items() if LLAMA_CPP_PYTHON in text] == ["cotcli/native/library.py"]


def test_the_wheel_is_complete(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("cotcli-*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    bundled = {name for pair in specs()["demo"].files for name in (pair.language, pair.mmproj)}
    assert len(bundled) == 2
    assert {"models.toml", "__main__.py", "data/selftest.npz", *(f"data/{name}" for name in bundled)} <= {
        path.relative_to(installed / "cotcli").as_posix() for path in installed.rglob("cotcli/**/*")
    }
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"cotcli", "convert"}

    def run(*args: str) -> subprocess.CompletedProcess[str]:
        command, env = [sys.executable, "-m", "cotcli", *args], environment({"PYTHONPATH": str(installed)})
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert "Xkev/Llama-3.2V-11B-cot" in run("model", "show", "llava-cot").stdout
    demo = run("demo", "--threads", "1", "--verbose")
    assert demo.returncode == 0 and demo.stdout.strip(), demo.stderr
    assert "installed/cotcli/data/demo-" in demo.stderr and "the truth is" in demo.stderr
    # Without its files, what helps is not to run it again.
    for name in bundled:
        (installed / "cotcli" / "data" / name).unlink()
    demo = run("demo")
    assert demo.returncode == 4
    assert demo.stderr.splitlines()[-1] == "To install it: pip install --force-reinstall cotcli"
