"""`python -m training.evaluate --write`: for those who have no torch, and of held-out scenes only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.evaluate import main
from training.held_out import MAX_SET

_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "transformers", "tokenizers")))  # importing them is an ImportError
from training.evaluate import main
main()
"""


def test_writing_needs_no_torch(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    command = [sys.executable, "-c", _WITHOUT, "--write", str(folder), "--scenes", "3", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"3 pictures, questions.jsonl and truth.jsonl in {folder}\n"
    assert {path.name for path in folder.iterdir()} == {
        *(f"000{index}.png" for index in range(3)),
        "questions.jsonl",
        "truth.jsonl",
    }


def test_what_is_no_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert f"argument checkpoint: '{tmp_path}' is no folder of a checkpoint: it has no config.json" in error(
        str(tmp_path)
    )
    (tmp_path / "config.json").write_text("{}")
    assert "it has no tokenizer.json" in error(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "it has no model*.safetensors" in error(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert error(str(tmp_path), "--write", str(tmp_path)) == error()
    assert error().endswith("give either a CHECKPOINT, or --write DIR")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--seed", "-1"], f"argument --seed: '-1' is not a whole number from 0 to {MAX_SET}"),
        (["--seed", str(MAX_SET + 1)], f"is not a whole number from 0 to {MAX_SET}"),
        (["--scenes", "0"], "argument --scenes: '0' is not a whole number from 1 to"),
        (["--scenes", "2"], "argument --write: "),
    ],
)
def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit) as ended:
        main(["--write", str(tmp_path), *arguments])
    assert ended.value.code == 2 and words in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
