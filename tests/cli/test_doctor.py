"""`cotcli doctor`: what it says of this machine, and of installations that something is wrong with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from PIL import Image

import cotcli as package
from cotcli.engine import Engine, EngineOptions
from cotcli.errors import ModelError
from cotcli.image import prepare_image
from cotcli.install import InstallRecord, file_record, mmproj_beside, write_record
from cotcli.selftest import (
    GOLDEN,
    KEPT_LOGITS,
    KEPT_STATES,
    LOGITS_TOLERANCE,
    STATES_TOLERANCE,
    check_files,
    read_golden,
    run,
    run_apart,
)
from tests.cli.process import ROOT, Finished, cotcli, cotcli_on_terminal, environment
from tests.rpc_server import free_endpoint
from tests.test_engine import relative_error


def report_of(done: Finished) -> dict[str, Any]:
    report = json.loads(done.out)
    Draft202012Validator(json.loads(cotcli("schema", "doctor").out)).validate(report)
    return dict(report)


def test_the_stored_values_belong_to_the_bundled_model() -> None:
    check_files()


def test_the_cpu_passes_with_room_to_spare() -> None:
    result = run("cpu")
    assert result.ok and result.problem is None and result.same_answer
    assert result.states_error is not None and result.states_error < STATES_TOLERANCE / 3
    assert result.logits_error is not None and result.logits_error < LOGITS_TOLERANCE / 3


def test_the_mildest_mistakes_are_told() -> None:
    """Padding tiles taken for real ones: by the tower, and by the language side alone."""
    model, golden = check_files()
    with Engine(model.language, model.mmproj, EngineOptions(threads=1, context_length=512)) as engine:
        picture = prepare_image(Image.fromarray(golden["picture"]), engine.hparams.image)
        assert 1 < picture.num_tiles < 4
        wrong = engine.encode(replace(picture, num_tiles=4))
        assert relative_error(wrong[KEPT_STATES], golden["states"]) > 2 * STATES_TOLERANCE
        image = engine.load_image(engine.encode(picture), 4)
        sequence = engine.sequence(image)
        prompt, answer = golden["prompt"].tolist(), golden["answer"].tolist()
        engine.prefill(sequence, prompt[:-1])
        rows = [row.copy() for row in engine.each_logits(sequence, [prompt[-1], *answer[:-1]])]
        assert relative_error(np.stack(rows)[KEPT_LOGITS], golden["logits"]) > 1.5 * LOGITS_TOLERANCE


def test_json(home: Path) -> None:
    done = cotcli("doctor", "--json")
    assert (done.code, done.err) == (0, "")
    report = report_of(done)
    assert report["ok"] and report["problems"] == []
    assert report["versions"]["cotcli"] == package.__version__
    assert report["versions"]["llama_cpp_python"] == "0.3.36"
    [cpu] = [device for device in report["devices"] if device["type"] == "cpu"]
    assert cpu["self_test"]["ok"] and 0 < cpu["free"] <= cpu["total"]
    [model] = report["models"]
    assert (model["name"], model["quant"], model["files"]) == ("demo", "Q8_0", "ok")
    assert model["memory"][0]["place"] == "host" and model["memory"][0]["mapped"] > 1_000_000
    assert (report["default"]["name"], report["default"]["installed"]) == ("llava-cot", False)
    assert report["default"]["hint"].startswith("To install it: cotcli model pull llava-cot (42.7 GB to download, ")
    paths = {place["name"]: place for place in report["paths"]}
    assert paths["home"] == {"name": "home", "path": str(home), "exists": False}
    assert paths["config"]["path"] == str(home / "config.toml")


@pytest.mark.parametrize("columns", [80, 120])
def test_text_fits_the_width(columns: int) -> None:
    done = cotcli_on_terminal("doctor", "--quiet", columns=columns)
    assert done.code == 0, done.out
    assert max(map(len, done.out.splitlines())) <= columns
    assert "\x1b" not in done.out
    lines = done.out.splitlines()
    [cpu] = [line for line in lines if line.startswith("CPU  ") and " cpu " in line]
    assert " ok, off by " in cpu
    assert any(line.startswith("demo:Q8_0  ") and line.endswith("  ok") for line in lines)
    assert lines[-1].split() == ["healthy", "all", "of", "it", "works"]


def test_a_pipe_gets_the_same_text(home: Path) -> None:
    home.mkdir()
    (home / "models.toml").write_text('default = "demo"\n')
    piped = cotcli("doctor", env={"COLUMNS": "100"})
    assert (piped.code, piped.err) == (0, "")
    assert [line.split() for line in piped.out.splitlines() if line.startswith("default")] == [["default", "demo"]]
    broken = [line for line in piped.out.splitlines() if str(home) not in line]  # a path stays whole
    assert "\x1b" not in piped.out and max(map(len, broken)) <= 100


@pytest.fixture
def installation(tmp_path: Path) -> Path:
    """A copy of the package, to break."""
    for name in ("cotcli", "convert"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "models.toml", tmp_path)
    return tmp_path


def doctor(installation: Path, *args: object) -> Finished:
    """From its own folder, which Python looks into first."""
    command = [sys.executable, "-m", "cotcli", "doctor", *map(str, args)]
    env = environment({"PYTHONPATH": str(installation)})
    done = subprocess.run(command, cwd=installation, env=env, capture_output=True, encoding="utf-8", check=False)
    return Finished(done.returncode, done.stdout, done.stderr)


def spoil(installation: Path, name: str, change: Any) -> None:
    path = installation / "cotcli" / "data" / "selftest.npz"
    with np.load(path) as stored:
        values = dict(stored)
    values[name] = change(values[name])
    np.savez(path, **values)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("states", lambda x: x * 1.05, "vision states are off by"),
        ("logits", lambda x: np.roll(x, 1, axis=-1), "logits are off by"),
        ("answer", lambda x: np.append(x[:-1], x[-1] - 1), "the greedy answer is another one"),
    ],
)
def test_a_device_that_computes_wrongly(installation: Path, name: str, change: Any, text: str) -> None:
    """From its side it looks the same when the stored values are others."""
    spoil(installation, name, change)
    done = doctor(installation, "--json")
    assert done.code == 5
    report = report_of(done)
    assert not report["ok"]
    [problem] = report["problems"]
    assert problem["message"].startswith("CPU fails the self-test: ") and text in problem["message"]
    assert "pip install" in problem["hint"]
    shown = doctor(installation)
    assert shown.code == 5 and " failed, " in shown.out and "problem      CPU fails the self-test" in shown.out


def test_values_of_another_model(installation: Path) -> None:
    spoil(installation, "sha256", lambda x: x[::-1])
    done = doctor(installation)
    assert done.code == 4
    assert "is not the file that the stored logits are for" in " ".join(done.out.split())
    (installation / "cotcli" / "data" / "selftest.npz").write_bytes(b"no values")
    done = doctor(installation)
    assert done.code == 4 and "cannot be read" in " ".join(done.out.split())


def test_damaged_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = GOLDEN.read_bytes()
    monkeypatch.setattr("cotcli.selftest.GOLDEN", tmp_path / "selftest.npz")
    half = whole[: len(whole) // 2]
    flipped = [bytearray(whole) for _ in range(40)]
    for number, data in enumerate(flipped):  # the last tenth has the table of contents, and so more to go wrong
        data[(len(data) - 1) * (number if number < 20 else 380 + number) // 420] ^= 0xFF
    refused = 0
    for damaged in (half, b"", *map(bytes, flipped)):
        (tmp_path / "selftest.npz").write_bytes(damaged)
        try:
            read_golden()
        except ModelError as error:
            assert "cannot be read: " in error.message and error.message[-1] != " "
            refused += 1
    assert refused > 20  # not all bytes of an archive matter


def test_damaged_values_in_the_report(installation: Path) -> None:
    path = installation / "cotcli" / "data" / "selftest.npz"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = doctor(installation, "--json")
    assert done.code == 4 and len(report_of(done)["problems"]) == 1
    assert report_of(done)["models"], "the rest is there"


def test_the_self_test_runs_nothing_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("json", "numpy", "llama_cpp", "cotcli"):
        (tmp_path / f"{name}.py").write_text(f"open('ran-{name}', 'w').close()\nraise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in a console
    result = run_apart("cpu")
    assert result.ok, result.problem
    assert list(tmp_path.glob("ran-*")) == []


def test_a_spoilt_model(installation: Path) -> None:
    path = installation / "cotcli" / "data" / "demo-Q8_0.gguf"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    done = doctor(installation, "--json")
    assert done.code == 4
    report = report_of(done)
    assert report["models"][0]["files"] == "differs"
    assert any("demo:Q8_0: its files are not what they were" in problem["message"] for problem in report["problems"])


def test_another_release_of_the_library(installation: Path) -> None:
    """Nothing of it may be used then, so there is little to report."""
    abi = installation / "cotcli" / "native" / "abi.py"
    abi.write_text(abi.read_text().replace('GGML_VERSION = "', 'GGML_VERSION = "9'))
    done = doctor(installation, "--json")
    assert done.code == 1
    report = report_of(done)
    assert report["cpu"] is None and report["devices"] == report["models"] == []
    [problem] = report["problems"]
    assert "is not what cotcli needs" in problem["message"] and "llama-cpp-python==0.3.36" in problem["hint"]
    assert "is not what cotcli needs" in " ".join(doctor(installation).out.split())


def test_a_broken_table_of_models(home: Path) -> None:
    home.mkdir()
    (home / "models.toml").write_text("models = 3\n")
    done = cotcli("doctor", "--json")
    assert done.code == 2
    report = report_of(done)
    [problem] = report["problems"]
    assert "models must be a table" in problem["message"]
    assert report["devices"][0]["self_test"]["ok"]


def test_the_users_table_does_not_change_what_is_tested(home: Path, noise: Path) -> None:
    """Another pair of the bundled model's name, which the table prefers."""
    folder = home / "models" / "demo"
    folder.mkdir(parents=True)
    (home / "models.toml").write_text('[models.demo]\ndefault_quant = "F32"\n')
    shutil.copy(noise, folder / "demo-F32.gguf")
    shutil.copy(mmproj_beside(noise), folder / "demo-F32.mmproj.gguf")
    done = cotcli("doctor", "--json")
    assert done.code == 0, done.out
    report = report_of(done)
    assert [model["quant"] for model in report["models"]] == ["F32", "Q8_0"]
    assert report["devices"][0]["self_test"]["ok"]


def test_a_server_that_does_not_answer(home: Path) -> None:
    """With or without RPC in this build: the rest is reported all the same."""
    done = cotcli("doctor", "--json", "--rpc", free_endpoint())
    assert done.code == 5
    report = report_of(done)
    [problem] = report["problems"]
    assert "RPC" in problem["message"] and problem["exit_code"] == 5
    assert report["devices"][0]["self_test"]["ok"] and report["models"]


@pytest.mark.parametrize("half", ["language", "mmproj"])
def test_a_pulled_model_that_differs(home: Path, noise: Path, half: str) -> None:
    """In one half, by one byte."""
    folder = home / "models" / "noise"
    folder.mkdir(parents=True)
    language = folder / "noise-F32.gguf"
    shutil.copy(noise, language)
    shutil.copy(mmproj_beside(noise), mmproj_beside(language))
    record = InstallRecord(file_record(language), file_record(mmproj_beside(language)), "F32")
    write_record(language, record)
    pairs = {model["name"]: model for model in report_of(cotcli("doctor", "--json"))["models"]}
    assert pairs["noise"]["files"] == "ok"
    path = language if half == "language" else mmproj_beside(language)
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    done = cotcli("doctor", "--json")
    assert done.code == 4
    report = report_of(done)
    assert {model["name"]: model["files"] for model in report["models"]} == {"demo": "ok", "noise": "differs"}
    [problem] = report["problems"]
    assert problem["message"].startswith("noise:F32: its files are not what they were")


def test_a_model_that_cannot_be_loaded(home: Path, noise: Path) -> None:
    folder = home / "models" / "broken"
    folder.mkdir(parents=True)
    vision = noise.name.removesuffix(".gguf") + ".mmproj.gguf"
    (folder / "broken-F32.gguf").write_bytes(b"nothing of the kind")
    shutil.copy(noise.with_name(vision), folder / "broken-F32.mmproj.gguf")
    done = cotcli("doctor", "--json")
    assert done.code == 4
    report = report_of(done)
    [broken] = [model for model in report["models"] if model["name"] == "broken"]
    assert broken["gpu_layers"] is None and "cannot be loaded" in broken["notes"][0]
