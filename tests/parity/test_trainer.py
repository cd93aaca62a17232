"""The trainer: a stopped run is gone on with bit for bit, and only by itself; the optimizer against an SVD."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import termios
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from training.batches import Batch
from training.optimizer import Muon, orthogonalize
from training.settings import OtherRun
from training.tokenizer import sample_texts, train_tokenizer
from training.train import MOST_WORKERS, Fit, Learner, Options, Phase, main, phases, train

OPTIONS = replace(Options(), workers=1, save_minutes=999.0)


@pytest.fixture(scope="module")
def vocabulary() -> str:
    text: str = train_tokenizer(sample_texts(300)).to_str(pretty=True)
    return text


@pytest.fixture
def out(tmp_path: Path, vocabulary: str) -> Path:
    torch.set_num_threads(1)
    (tmp_path / "tokenizer.json").write_text(vocabulary, encoding="utf-8")
    return tmp_path


def small(name: str, steps: int) -> Phase:
    """A phase of the real ones, with two pictures a step."""
    phase = {phase.name: phase for phase in phases(OPTIONS)}[name]
    return replace(phase, steps=steps, batches=replace(phase.batches, pictures=2))


class Stopped(Learner):
    """Ctrl-C comes in the third step."""

    taken = 0

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        self.taken += 1
        if self.taken == 3:
            raise KeyboardInterrupt
        return super().loss(batch)


@pytest.mark.parametrize("name", ["vision", "language", "joint"])
def test_a_stopped_phase_goes_on_bit_for_bit(out: Path, name: str) -> None:
    phase = small(name, 4)
    whole = Fit(Learner(out, OPTIONS), phase, out, OPTIONS)
    began = {key: weight.detach().clone() for key, weight in whole.named}
    whole.run()
    (out / f"{name}.pt").unlink()
    often = replace(OPTIONS, save_minutes=0.0)
    with pytest.raises(KeyboardInterrupt):
        Fit(Stopped(out, often), phase, out, often).run()
    torch.manual_seed(99)
    resumed = Fit(Learner(out, OPTIONS), phase, out, OPTIONS)
    assert resumed.step == 2
    resumed.run()
    assert resumed.step == 4 and [key for key, _ in resumed.named] == list(began)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(whole.named, resumed.named, strict=True))
    assert sum(not torch.equal(began[key], weight) for key, weight in whole.named) > 0.9 * len(began)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 7}, "its seed is 0, not 7"),
        ({"workers": 2}, "its workers is 1, not 2"),
        ({"joint_steps": 9}, f"its joint_steps is {OPTIONS.joint_steps}, not 9"),
        ({"rate": 0.5}, "its rate is 0.0025, not 0.5"),
    ],
)
def test_another_run_is_refused_in_its_folder(out: Path, change: dict[str, float], words: str) -> None:
    finished = replace(OPTIONS, vision_steps=0, language_steps=0)
    (out / "run.json").write_text(json.dumps(finished.settings), encoding="utf-8")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(OtherRun, match=re.escape(words)) as refused:
        train(out, replace(finished, **change))  # type: ignore[arg-type]
    assert "another --out" in str(refused.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_states_without_a_record_are_gone_on_with(out: Path) -> None:
    """As earlier versions left them; what decides them is written from then on. How often they are saved does not."""
    options = replace(OPTIONS, vision_steps=1, language_steps=1, joint_steps=1)
    for name, steps in (("vision", 1), ("language", 1), ("joint", 1)):
        Fit(Learner(out, options), small(name, steps), out, options).run()
    joint = torch.load(out / "joint.pt", weights_only=True)
    train(out, options)
    assert json.loads((out / "run.json").read_text("utf-8")) == options.settings
    train(out, replace(options, save_minutes=1.0))
    again = torch.load(out / "joint.pt", weights_only=True)
    assert again["step"] == 1 and all(
        torch.equal(joint["weights"][key], again["weights"][key]) for key in again["weights"]
    )
    assert (out / "checkpoint" / "model.safetensors").exists()


@pytest.mark.parametrize("workers", [0, -1, MOST_WORKERS + 1])
def test_workers_are_as_many_as_have_a_share(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    with pytest.raises(ValueError, match=f"not {workers}"):
        train(tmp_path / "run", replace(OPTIONS, workers=workers))
    with pytest.raises(SystemExit) as ended:
        main(["--out", str(tmp_path / "run"), "--workers", str(workers)])
    assert ended.value.code == 2 and f"from 1 to {MOST_WORKERS}" in capsys.readouterr().err
    assert MOST_WORKERS == 16 and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("position", "moved"), [(0, False), (1, True)])
def test_each_worker_s_bar_has_a_line_of_its_own(
    out: Path, monkeypatch: pytest.MonkeyPatch, position: int, moved: bool
) -> None:
    """On a terminal: the second bar goes a line down and comes back up."""
    reader, writer = pty.openpty()
    with os.fdopen(writer, "w") as terminal:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        monkeypatch.setattr("sys.stderr", terminal)
        Fit(Learner(out, OPTIONS), small("language", 1), out, OPTIONS, position=position).run()
    shown = b""
    with suppress(OSError):  # that of a terminal at its end
        while part := os.read(reader, 4096):
            shown += part
    os.close(reader)
    text = shown.decode()
    assert "language: 100%" in text
    assert bool(re.search(r"\n\r?language[^\n]*\x1b\[A", text)) is moved


def svd_of_the_quintic(matrix: torch.Tensor) -> torch.Tensor:
    """What the iteration does to each singular value, by hand, between the singular vectors; in float64."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return u @ torch.diag(values) @ v


@pytest.mark.parametrize("shape", [(24, 24), (16, 48), (48, 16)])
def test_orthogonalized_matrices_keep_their_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-3, 1.0, 50.0])[:, None, None]
    for matrix, found in zip(matrices, orthogonalize(matrices), strict=True):
        assert torch.allclose(found.double(), svd_of_the_quintic(matrix), atol=2e-4)
        if shape[0] != shape[1]:  # a square one has values so near 0 that five rounds do not raise them
            values = torch.linalg.svdvals(found)
            assert values.min() > 0.6 and values.max() < 1.3


def test_muon_steps_along_nesterov_s_momentum_orthogonalized() -> None:
    """Two steps by hand, of matrices of two shapes, one of them without a gradient."""
    torch.manual_seed(2)
    weights = [nn.Parameter(torch.randn(8, 20)), nn.Parameter(torch.randn(8, 20)), nn.Parameter(torch.randn(12, 6))]
    still = nn.Parameter(torch.randn(4, 4))
    expected = [weight.detach().double().clone() for weight in weights]
    momenta = [torch.zeros_like(weight) for weight in expected]
    before = still.detach().clone()
    muon = Muon([*weights, still], lr=0.1, momentum=0.9)
    for _ in range(2):
        for index, weight in enumerate(weights):
            weight.grad = torch.randn_like(weight)
            gradient = weight.grad.double()
            momenta[index] = 0.9 * momenta[index] + 0.1 * gradient
            update = svd_of_the_quintic(0.1 * gradient + 0.9 * momenta[index])
            expected[index] -= 0.1 * 0.2 * max(weight.shape) ** 0.5 * update
        muon.step()
    for weight, found in zip(expected, weights, strict=True):
        assert torch.allclose(found.detach().double(), weight, atol=1e-4)
    assert torch.equal(still.detach(), before)
