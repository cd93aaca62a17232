"""Commands that need no model: help, version, schema, the list of models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import cotcli as package
from cotcli.cli import main
from cotcli.cli.app import COMMANDS
from tests.cli.process import ROOT, cotcli, environment


def test_version() -> None:
    done = cotcli("--version")
    assert (done.code, done.out, done.err) == (0, f"cotcli {package.__version__}\n", "")


@pytest.mark.parametrize(
    "command", [[], ["ask"], ["batch"], ["score"], ["convert"], ["demo"], ["doctor"], ["schema"], ["model"]]
)
def test_help_waits_for_no_library(command: list[str]) -> None:
    script = f"""
import sys
from cotcli.cli import main
code = main({[*command, "--help"]!r})
print(*sys.modules, file=sys.stderr)
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment(), check=True)
    imported = set(done.stderr.split())
    assert "typer" in imported
    assert {name for name in COMMANDS if f"cotcli.cli.{name}" in imported} - {"config"} == set(command)
    for library in ("numpy", "PIL", "llama_cpp", "gguf", "pydantic", "rich.live", "rich.console", "huggingface_hub"):
        assert library not in imported
    assert done.stdout.startswith(" ".join(["Usage: cotcli", *command]))


def test_settings_of_one_run_are_not_the_next_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("no-such-key = 1\n")
    monkeypatch.setenv("COTCLI_CONFIG", str(tmp_path / "bad.toml"))
    assert main(["schema", "record"]) == 2
    monkeypatch.delenv("COTCLI_CONFIG")
    assert main(["schema", "record"]) == 0


def test_schema() -> None:
    whole = json.loads(cotcli("schema").out)
    Draft202012Validator.check_schema(whole)
    kinds = ("record", "score", "event", "doctor")
    assert [part["$ref"] for part in whole["anyOf"]] == [f"#/$defs/{kind}" for kind in kinds]
    error = {"event": "delta", "id": None, "stage": "summary", "text": ""}
    for kind in kinds:
        schema = json.loads(cotcli("schema", kind).out)
        Draft202012Validator.check_schema(schema)
        assert schema["title"] == f"cotcli {kind}"
        assert schema["$defs"].items() <= whole["$defs"].items()
        assert not Draft202012Validator(schema).is_valid(error)
        assert Draft202012Validator(schema).is_valid({**error, "text": "x"}) is (kind == "event")
    assert "score" not in schema["$defs"]


def test_models(home: Path) -> None:
    lines = cotcli("model", "ls").out.splitlines()
    assert lines[0].split() == ["NAME", "QUANT", "SIZE", "LANGUAGE", "FILE"]
    [missing] = [line for line in lines if line.startswith("llava-cot")]
    assert missing.endswith("not installed: cotcli model pull llava-cot")
    about = json.loads(cotcli("model", "show", "llava-cot", "--json").out)
    assert (about["repo"], about["bos_count"], about["pairs"]) == ("Xkev/Llama-3.2V-11B-cot", 2, [])
    assert "Llama 3.2 Community License" in cotcli("model", "show", "llava-cot").out
    entries = {entry["name"]: entry for entry in json.loads(cotcli("model", "ls", "--json").out)}
    assert entries["llava-cot"]["installed"] is False


def test_the_bundled_model_is_listed() -> None:
    [demo] = [entry for entry in json.loads(cotcli("model", "ls", "--json").out) if entry["name"] == "demo"]
    assert demo["installed"] and demo["bytes"] == sum(os.path.getsize(demo[half]) for half in ("language", "mmproj"))


def test_other_ways_to_call() -> None:
    for module, start in (("cotcli", "Usage: cotcli [OPTIONS]"), ("convert", "Usage: cotcli convert")):
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"], capture_output=True, text=True, env=environment(), cwd=ROOT
        )
        assert done.returncode == 0 and done.stdout.startswith(start)
