"""The benchmark of what quantization loses: its divergence by hand, its predictions beside ``score``, one whole run."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest

import cotcli
from benchmarks.quantization import main, measure, predictions
from benchmarks.small_checkpoints import Recipe, write_checkpoint
from cotcli.shapes.scenes import draw
from training.held_out import held_out


def test_divergence_and_agreement() -> None:
    base = [np.log([[0.5, 0.5, 1e-30], [0.1, 0.8, 0.1]]), np.log([[0.2, 0.3, 0.5]])]
    ours = [np.log([[0.25, 0.75, 1e-30], [0.1, 0.8, 0.1]]), np.log([[0.5, 0.3, 0.2]])]
    with cotcli.load("demo") as model:
        loss = measure(model, "two", [], base, ours)
    first = 0.5 * math.log(2) + 0.5 * math.log(0.5 / 0.75)
    last = 0.2 * math.log(0.2 / 0.5) + 0.5 * math.log(0.5 / 0.2)
    assert loss.divergence == pytest.approx((first + 0 + last) / 3)
    assert loss.agreement == pytest.approx(1 / 3)  # of equals the first is taken


def test_predictions_are_those_that_score_gives() -> None:
    (item,) = held_out(1)
    with cotcli.load("demo") as model:
        (rows,) = predictions(model, [item])
        scored = model.score(draw(item.scene), item.question.text, item.reference)
        tokens = model.engine.model.tokenize(item.reference)
    assert rows.shape[0] == len(tokens) + 1
    ours = [rows[place, token] for place, token in enumerate(tokens)]
    assert ours == pytest.approx([token.logprob for token in scored.tokens], abs=1e-5)


def test_types_of_one_checkpoint_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_checkpoint(tmp_path / "checkpoint", Recipe())
    checkpoint = str(tmp_path / "checkpoint")
    main([checkpoint, "--types", "f32", "q8_0", "--scenes", "2", "--kl-scenes", "1", "--threads", "1"])
    table = capsys.readouterr().out
    losses = {row[0]: float(row[1]) for row in re.findall(r"│ (F32|Q8_0) +│[^│]+│ ([-+.e\d]+) +│", table)}
    assert losses["F32"] == 0 and 0 < losses["Q8_0"] < 0.1
    assert table.count("wrong answers, by the stage that first went wrong") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere"),
        (["nowhere", "--kl-scenes", "0"], "'0' is not a whole number from 1 to"),
        (["nowhere", "--types", "q9"], "unknown type 'q9'"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])
