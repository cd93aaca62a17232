"""The README's recipes and its config file, run as they are written there, with the bundled model."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cotcli.shapes.scenes import draw, make_scene
from tests.cli.process import COMMAND, ROOT, environment

README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = shutil.which("bash")
PICTURES = ("a.png", "b.png")


def blocks(heading: str) -> list[tuple[str, str]]:
    """Language and text of each code block of a section."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```(\w+)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


RECIPES = blocks("Cookbook")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where recipes run: pictures in photos/, cotcli on the path."""
    (tmp_path / "photos").mkdir()
    for seed, name in enumerate(PICTURES):
        draw(make_scene(2**50 + 10**6 + seed)).save(tmp_path / "photos" / name)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "cotcli").write_text(f'#!/bin/sh\nexec {" ".join(COMMAND)} "$@"\n')
    (tmp_path / "bin" / "cotcli").chmod(0o755)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    kept = environment({"COTCLI_MODEL": "demo", "COTCLI_THREADS": "1"})
    env = {**kept, "PATH": f"{folder / 'bin'}:{kept['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"has no {program}")


@pytest.mark.parametrize("script", [text for language, text in RECIPES if language == "sh"])
def test_shell(script: str, folder: Path) -> None:
    needs("bash", "jq", "find")
    out = run(folder, "bash", "-euo", "pipefail", "-c", script)
    if "@tsv" in script and "answers.jsonl" not in script:
        lines = [line.split("\t") for line in out.splitlines()]
        assert [line[0] for line in lines[:2]] == [f"photos/{name}" for name in PICTURES]
        assert all(line[1].strip() for line in lines[:2]) and lines[2:] in ([], [["a circle"]])
    elif "answers.jsonl" in script:
        records = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
        records = [record for record in records if "answer" in record]
        assert sorted(record["id"] for record in records) == [f"photos/{name}" for name in PICTURES]
        reasoning = next(record for record in records if record["id"] == "photos/a.png")["stages"]["reasoning"]
        assert reasoning in out and "seconds a picture" in out
        counts = re.findall(r"^ *(\d+) (\S.*)$", out.partition(reasoning)[0], re.MULTILINE)
        assert sum(int(count) for count, _ in counts) == len(PICTURES)
    else:
        assert "<" not in out and len(out.split()) > 3


@pytest.mark.parametrize("makefile", [text for language, text in RECIPES if language == "make"])
def test_make(makefile: str, folder: Path) -> None:
    needs("make")
    (folder / "Makefile").write_text(makefile)
    run(folder, "make", "-s")
    for name in PICTURES:
        record = json.loads((folder / "photos" / name).with_suffix(".answer.json").read_text())
        assert record["ok"] and record["id"] == f"photos/{name}"
    assert "Nothing to be done" in run(folder, "make")


@pytest.mark.parametrize("code", [text for language, text in RECIPES if language == "python"])
def test_python(code: str, folder: Path) -> None:
    out = run(folder, sys.executable, "-c", code)
    assert [line.split(" ", 1)[0] for line in out.splitlines()] == list(PICTURES)
    assert all(set(ast.literal_eval(line.split(" ", 1)[1])) == {"circles", "square"} for line in out.splitlines())


def test_what_is_said_of_batch(folder: Path) -> None:
    needs("jq")
    run(folder, "cotcli", "batch", "Is there a circle?", "photos", "-o", "answers.jsonl", "--choices", "yes,no")
    [lines] = [text.splitlines() for language, text in blocks("Batch") if language == "sh"]
    answers, failed, groups = (run(folder, "bash", "-c", line) for line in lines if line.startswith("jq"))
    assert re.fullmatch(r"a\.png\t(yes|no)\nb\.png\t(yes|no)\n", answers) and failed == ""
    assert sum(group["pictures"] for group in json.loads(groups)) == len(PICTURES)


def test_every_recipe_is_run() -> None:
    assert {language for language, _ in RECIPES} == {"sh", "make", "python"} and len(RECIPES) >= 5


def test_the_config_file_is_one(folder: Path) -> None:
    [(language, text)] = blocks("Settings")
    assert language == "toml"
    (folder / "config.toml").write_text(text)
    env = environment({"COTCLI_CONFIG": str(folder / "config.toml")})
    done = subprocess.run([*COMMAND, "config", "show", "--json"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = {name: row["value"] for name, row in json.loads(done.stdout).items() if row["origin"] != "default"}
    assert told == {
        "model": "demo",
        "stage_max_tokens": ["reasoning=400", "caption=200"],
        "ask.show": "all",
        "model_ls.json": True,
    }
