"""Where a model looks while it names an object: a model that looks everywhere alike looks as often as chance has it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.attention import WORDS, looks
from training.batches import object_patches
from training.held_out import held_out
from training.tokenizer import sample_texts, train_tokenizer
from training.train import Learner, Options


@pytest.fixture
def learner(tmp_path: Path) -> Learner:
    (tmp_path / "tokenizer.json").write_text(train_tokenizer(sample_texts(300)).to_str(pretty=True), encoding="utf-8")
    return Learner(tmp_path, Options())


def test_looking_everywhere_alike_is_chance(learner: Learner, tmp_path: Path) -> None:
    items = held_out(6)
    with torch.no_grad():
        for name, weight in learner.model.named_parameters():
            if "cross_attn.q_proj" in name:
                weight.zero_()
    learner.save_checkpoint(tmp_path / "uniform")
    found = looks(tmp_path / "uniform", items)
    assert set(found) == {(when, word) for when in ("about to say", "saying") for word in WORDS}
    objects = sum(len(item.scene.objects) for item in items)
    # Where chance looks depends on the objects alone: patches of each among the tiles' 17 * 17 and class tokens.
    assert all(look.words == objects and look.ratio == pytest.approx(1, abs=1e-5) for look in found.values())
    sizes = [len(patches) for item in items for _, patches in object_patches(item.scene)]
    assert min(sizes) > 0 and 0 < found["saying", "size"].chance < 0.2


def test_looking_elsewhere_is_not(learner: Learner, tmp_path: Path) -> None:
    with torch.no_grad():
        for name, weight in learner.model.named_parameters():
            if "cross_attn.q_proj" in name or "cross_attn.k_proj" in name:
                weight.normal_(std=1.0)
    learner.save_checkpoint(tmp_path / "random")
    assert any(abs(look.ratio - 1) > 0.05 for look in looks(tmp_path / "random", held_out(3)).values())
