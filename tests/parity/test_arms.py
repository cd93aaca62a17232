"""The comparison of arms: by whose tower they see, when a folder is refused, and what the table says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cotcli.shapes.answers import judge
from cotcli.shapes.questions import KINDS
from cotcli.shapes.scenes import make_scene
from training.arms import Comparison, _concluded, begin, blind_row, fingerprint, look, main, table, vision_tower
from training.batches import preprocess
from training.held_out import held_out
from training.settings import OtherRun
from training.tell import FORMS, tell
from training.tokenizer import sample_texts, train_tokenizer
from training.train import Learner, Options


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training run whose joint phase has changed the tower."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "tokenizer.json").write_text(train_tokenizer(sample_texts(300)).to_str(pretty=True), encoding="utf-8")
    for name, seed, step in (("vision", 1, 3), ("joint", 2, 5)):
        learner = Learner(folder, Options(seed=seed))
        weights = {key: weight.detach() for key, weight in learner.named_parameters()}
        torch.save({"weights": weights, "step": step}, folder / f"{name}.pt")
    return folder


def a_comparison(source: Path, out: Path, **changes: Any) -> Comparison:
    return Comparison(**{"source": source, "out": out, "steps": 5, "scenes": 3, "questions": 8, **changes})


def test_the_tower_is_the_one_that_has_seen_no_answers(source: Path, tmp_path: Path) -> None:
    tower = vision_tower(source)
    assert all("vision_model" in name for name in tower) and len(tower) > 40
    begin(a_comparison(source, tmp_path), tower)
    look(tmp_path, tower, 3)
    seen = torch.load(tmp_path / "seen.pt", weights_only=True)
    images = preprocess([make_scene(seed) for seed in range(3)])
    with torch.inference_mode():
        by_seed = [
            Learner(source, Options(seed=seed)).model.eval().model.vision_model(**images).last_hidden_state
            for seed in (1, 2)
        ]
    seeing, later = (states.reshape(3, -1, states.shape[-1]) for states in by_seed)
    assert torch.allclose(seen["states"].float(), seeing, atol=1e-2)
    assert not torch.allclose(seen["states"].float(), later, atol=0.5)
    assert torch.equal(seen["tiles"], images["aspect_ratio_mask"])


@pytest.mark.parametrize("change", [{"steps": 6}, {"scenes": 4}, {"questions": 9}], ids=str)
def test_another_comparison_is_refused_in_its_folder(source: Path, tmp_path: Path, change: dict[str, int]) -> None:
    tower = vision_tower(source)
    begin(a_comparison(source, tmp_path), tower)
    begin(a_comparison(source, tmp_path), tower)
    (name,) = change
    with pytest.raises(OtherRun, match=f"its {name} is {change[name] - 1}, not {change[name]}"):
        begin(a_comparison(source, tmp_path, **change), tower)


def test_another_tower_is_refused(source: Path, tmp_path: Path) -> None:
    tower = vision_tower(source)
    begin(a_comparison(source, tmp_path), tower)
    name = next(iter(tower))
    other = {**tower, name: tower[name] + 1e-6}
    assert fingerprint(dict(reversed(tower.items()))) == fingerprint(tower) != fingerprint(other)
    with pytest.raises(OtherRun, match="its tower is"):
        begin(a_comparison(source, tmp_path), other)
    (tmp_path / "run.json").unlink()
    (tmp_path / "seen.pt").write_bytes(b"of some tower")
    with pytest.raises(OtherRun, match=r"without a run\.json"):
        begin(a_comparison(source, tmp_path), tower)


def test_runs_that_have_no_tower_yet(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error(run: Path) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(run), "--out", str(tmp_path / "arms")])
        assert ended.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    assert f"{tmp_path / 'vision.pt'}: No such file" in error(tmp_path)
    torch.save(torch.load(source / "vision.pt", weights_only=True), tmp_path / "vision.pt")
    (tmp_path / "run.json").write_text(json.dumps({"vision_steps": 4}), encoding="utf-8")
    assert f"at step 3 of 4: python -m training.train --out {tmp_path} goes on" in error(tmp_path)
    assert not (tmp_path / "arms").exists()


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_judged_by_its_conclusion(form: str) -> None:
    for item in held_out(16, 2):
        stages = tuple(part.partition(">")[2].rpartition("</")[0] for part in item.reference.split("\n\n<"))
        assert len(stages) == 4
        text = tell(stages, form, False).text  # type: ignore[arg-type]
        assert judge(_concluded(text, form), item.question).correct
        assert judge(_concluded(f"\n{text}\n", form), item.question).correct
        wrong = text.replace(item.question.truth, "none of it")
        assert not judge(_concluded(wrong, form), item.question).correct


def test_only_the_last_paragraph_concludes() -> None:
    assert _concluded("2\n\n1. small red star\n\nThe total is 2.\n\n3", "untagged") == "<CONCLUSION>3</CONCLUSION>"
    assert _concluded("3", "direct") == "<CONCLUSION>3</CONCLUSION>"
    assert _concluded("<CONCLUSION>3", "staged") == "<CONCLUSION>3"


def test_another_world_is_refused(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One word of what is asked."""
    tower = vision_tower(source)
    begin(a_comparison(source, tmp_path), tower)
    monkeypatch.setattr("training.held_out.UNSEEN_STRANGERS", ("kangaroo",))
    with pytest.raises(OtherRun, match="its world is"):
        begin(a_comparison(source, tmp_path), tower)


def test_the_blind_guess_is_a_line_of_the_table() -> None:
    cells = [cell.strip() for cell in blind_row(40, scenes=60).strip("|").split("|")]
    assert cells[:3] == ["blind", "", ""] and len(cells) == table([])[0].count("|") - 1
    overall, *kinds = map(float, cells[3:])
    assert overall == pytest.approx(sum(kinds) / len(KINDS), abs=0.1) and 20 < overall < 80  # five of each kind


def test_the_table_gives_means_and_spread() -> None:
    def result(arm: str, accuracy: float, count: float) -> dict[str, object]:
        by_kind = {kind: count if kind == "count" else 0.25 for kind in KINDS}
        return {"arm": arm, "accuracy": accuracy, "parameters": 6_550_793, "by_kind": by_kind}

    lines = table([result("direct", 0.5, 1.0), result("staged", 0.9, 0.5), result("staged", 0.7, 1.0)])
    others = " | ".join(["25.0"] * 7)
    assert lines == [
        f"| arm | parameters | seeds | all | {' | '.join(KINDS)} |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        f"| staged | 6.55M | 2 | 80.0 ± 14.1 | 75.0 | {others} |",  # 20 / sqrt(2) = 14.14
        f"| direct | 6.55M | 1 | 50.0 | 100.0 | {others} |",
    ]
