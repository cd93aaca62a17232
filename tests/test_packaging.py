"""The wheel, built and run from outside the working tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from cotcli import registry
from tests.cli.process import ROOT, environment


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
    bundled = {name for pair in registry.specs()["demo"].files for name in (pair.language, pair.mmproj)}
    assert {"models.toml", "__main__.py", "data/demo.png", *(f"data/{name}" for name in bundled)} <= {
        path.relative_to(installed / "cotcli").as_posix() for path in installed.rglob("cotcli/**/*")
    }
    assert {path.name for path in installed.iterdir() if path.suffix != ".dist-info"} == {"cotcli", "convert"}
    done = subprocess.run(
        [sys.executable, "-m", "cotcli", "model", "show", "llava-cot"],
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(installed)}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Xkev/Llama-3.2V-11B-cot" in done.stdout
