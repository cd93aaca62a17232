"""Step 7: train the bundled model, from nothing to a checkpoint, with one seeded command.

    python -m training.train --out DIR --seed 0

Knows the phases, the losses and the schedule. The vision tower alone learns, from dense labels, what lies where; the
language side alone learns, from captions it is given, to reason about them; then the whole learns to answer, while the
dense labels stay as a small second loss. The head that reads those labels is thrown away. Stopped at any time, the
same command goes on from the last saved state.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import distributed, nn
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from transformers import MllamaForConditionalGeneration

from cotcli.shapes.scenes import COLOURS, GRID, MAX_OBJECTS, SHAPES, SIZES
from training.arguments import between
from training.batches import IGNORE, Batch, Batcher, BatchOptions, Images, Texts
from training.files import aside, write_whole
from training.model import (
    CROSS_ATTENTION_LAYERS,
    WIDTH,
    make_config,
    make_generation_config,
    make_image_processor,
    make_model,
    project,
)
from training.optimizer import make_optimizers
from training.settings import OtherRun, keep_settings
from training.tell import DECIDED_WEIGHT
from training.tokenizer import (
    BOS,
    END_OF_TEXT,
    EOM,
    EOT,
    PAD,
    PromptEncoder,
    sample_texts,
    save_tokenizer,
    special_id,
    train_tokenizer,
)

_PLACES = (MAX_OBJECTS + 1, GRID, GRID)
_OBJECTS = (len(COLOURS), len(SHAPES), len(SIZES))
_LOG_EVERY = 20


@dataclass(frozen=True)
class Options:
    """Everything that decides a run, and how often it is saved; the same options repeat it."""

    seed: int = 0
    vision_steps: int = 3200
    language_steps: int = 1700
    joint_steps: int = 1600
    rate: float = 2.5e-3
    vision_share: float = 0.25  # the vision tower's share of the rate in the joint phase; a full one undoes the first
    language_share: float = 0.5
    patch_loss: float = 0.5
    workers: int = 2
    device: str = "cpu"
    save_minutes: float = 4.0

    @property
    def settings(self) -> dict[str, Any]:
        """What must not change while a run is gone on with."""
        return {name: value for name, value in asdict(self).items() if name != "save_minutes"}


@dataclass(frozen=True)
class Phase:
    """`share` gives a parameter's share of the rate by its name, 0 for one that this phase leaves alone."""

    name: str
    steps: int
    batches: BatchOptions
    share: Callable[[str], float]


def sees(name: str) -> bool:
    """Whether the parameter is the vision tower's, the projector's or the head's."""
    return "vision_model" in name or "multi_modal_projector" in name or name.startswith("head.")


def joins(name: str) -> bool:
    """Whether the parameter belongs to a cross-attention layer, which only pictures train."""
    return not sees(name) and any(f".layers.{layer}." in name for layer in CROSS_ATTENTION_LAYERS)


def phases(options: Options) -> tuple[Phase, Phase, Phase]:
    """Seeing alone, telling alone, both."""

    def joint_share(name: str) -> float:
        return options.vision_share if sees(name) else 1.0 if joins(name) else options.language_share

    return (
        Phase("vision", options.vision_steps, BatchOptions(32, tells=False), lambda name: float(sees(name))),
        Phase(
            "language",
            options.language_steps,
            BatchOptions(28, sees=False, blind=True),
            lambda name: float(not sees(name) and not joins(name)),
        ),
        Phase("joint", options.joint_steps, BatchOptions(16, questions=2), joint_share),
    )


MOST_WORKERS = phases(Options())[-1].batches.pictures  # the joint phase is the one whose batches they share


class PatchHead(nn.Module):
    """Reads place, square, colour, shape and size off each projected vision state; needed in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(_PLACES) + sum(_OBJECTS))

    def forward(self, states: torch.Tensor, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (loss, share of objects whose place, colour, shape and size are all read rightly)."""
        parts = self.read(self.norm(states)).split((*_PLACES, *_OBJECTS), dim=-1)
        places, objects = images.places, images.objects
        there, covered = places[..., 0] > 0, objects[..., 0] != IGNORE
        entropy = nn.functional.cross_entropy
        loss = entropy(parts[0][~there], places[..., 0][~there])  # apart: objects are rare
        right = torch.ones(int(there.sum()), dtype=torch.bool, device=states.device)
        for index, (part, weight) in enumerate(zip(parts[:3], (0.5, 0.25, 0.25), strict=True)):
            loss = loss + weight * entropy(part[there], places[..., index][there])
        for index, part in enumerate(parts[3:]):
            loss = loss + 0.5 * entropy(part[covered], objects[..., index][covered])
            right &= part[there].argmax(-1) == objects[..., index][there]
        right &= parts[0][there].argmax(-1) == places[..., 0][there]
        return loss, right.float().mean()


class Learner:
    """The model, its tokenizer (the run's `tokenizer.json`) and the head, and what one batch costs."""

    def __init__(self, out: Path, options: Options, text_width: int = WIDTH) -> None:
        torch.manual_seed(options.seed)
        self.tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        self.encoder = PromptEncoder(self.tokenizer)
        ids = {name: special_id(self.tokenizer, name) for name in (BOS, END_OF_TEXT, EOM, EOT, PAD)}
        config = make_config(ids[BOS], ids[EOT], ids[PAD], text_width)
        self.model: MllamaForConditionalGeneration = make_model(config)
        self.model.generation_config = make_generation_config(
            ids[BOS], [ids[END_OF_TEXT], ids[EOM], ids[EOT]], ids[PAD]
        )
        self.head = PatchHead(text_width)
        self.patch_loss = options.patch_loss
        self.device = torch.device(options.device)
        self.model.to(self.device)
        self.head.to(self.device)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The model's and the head's, the latter under `head.`."""
        head = [(f"head.{name}", weight) for name, weight in self.head.named_parameters()]
        return [*self.model.named_parameters(), *head]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """-> (loss, what to log): `read`, share of objects read rightly by the head; `tell`, the answers' loss;
        `decided`, share of the tokens that matter most that are right."""
        total = torch.zeros((), device=self.device)
        log: dict[str, float] = {}
        states = None
        if batch.images is not None:
            states = project(self.model, batch.images.inputs)
            patch_loss, read = self.head(states, batch.images)
            total = total + (patch_loss if batch.texts is None else self.patch_loss * patch_loss)
            log |= {"patch": patch_loss.item(), "read": read.item()}
            states = states.repeat_interleave(batch.questions_per_image, 0)
        if batch.texts is not None:
            tell_loss, decided = self._tell(batch.texts, states, batch.cross_attention_mask)
            total = total + tell_loss
            log |= {"tell": tell_loss.item(), "decided": decided.item()}
        return total, log

    def _tell(
        self, texts: Texts, states: torch.Tensor | None, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        core = self.model.model if states is not None else self.model.model.language_model
        seen = {} if states is None else {"cross_attention_states": states, "cross_attention_mask": mask}
        hidden = core(input_ids=texts.input_ids, use_cache=False, **seen).last_hidden_state
        told = texts.labels != IGNORE
        logits, truth, weights = self.model.lm_head(hidden[told]), texts.labels[told], texts.weights[told]
        loss = (nn.functional.cross_entropy(logits, truth, reduction="none") * weights).sum() / weights.sum()
        matters = weights == DECIDED_WEIGHT
        return loss, (logits.argmax(-1) == truth)[matters].float().mean()

    def save_checkpoint(self, folder: Path) -> None:
        """An ordinary transformers checkpoint; files are written aside and moved into place one by one."""
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(partial)
        make_image_processor().save_pretrained(partial)
        save_tokenizer(self.tokenizer, partial)
        for path in sorted(partial.iterdir()):
            os.replace(path, folder / path.name)
        partial.rmdir()


class Fit:
    """One phase's run in a folder: `PHASE.pt` is what it goes on from. `position` is the progress bar's line."""

    def __init__(
        self,
        learner: Learner,
        phase: Phase,
        out: Path,
        options: Options,
        rank: int = 0,
        workers: int = 1,
        position: int = 0,
    ) -> None:
        self.learner, self.phase, self.options = learner, phase, options
        self.rank, self.workers, self.position = rank, workers, position
        self.path = out / f"{phase.name}.pt"
        self.named = [(name, weight) for name, weight in learner.named_parameters() if phase.share(name) > 0]
        self.optimizers = make_optimizers(self.named, options.rate, phase.share)
        self.step, self.elapsed = 0, 0.0
        if self.path.exists():
            state: dict[str, Any] = torch.load(self.path, weights_only=True, map_location=learner.device)
            load(self.named, state["weights"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> None:
        """Runs to the phase's end, logging and saving on the way."""
        began, saved = time.monotonic() - self.elapsed, time.monotonic()
        batcher = Batcher(
            self.learner.encoder,
            f"{self.options.seed} {self.phase.name}",
            self.phase.batches,
            self.rank,
            self.workers,
        )
        batches = batcher.stream(self.step)
        recent: deque[dict[str, float]] = deque(maxlen=_LOG_EVERY)
        bar = tqdm(
            total=self.phase.steps,
            initial=self.step,
            desc=self.phase.name,
            unit="step",
            position=self.position,
            disable=self.rank != 0 or not sys.stderr.isatty(),
        )
        while self.step < self.phase.steps:
            self._set_rate(self.step / self.phase.steps)
            loss, log = self.learner.loss(next(batches).to(self.learner.device))
            for optimizer in self.optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._average_gradients()
            nn.utils.clip_grad_norm_([weight for _, weight in self.named], 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
            self.step += 1
            self.elapsed = time.monotonic() - began
            recent.append(log)
            bar.update()
            if self.rank == 0 and self.step % _LOG_EVERY == 0:
                self._log(recent, bar)
            if self.rank == 0 and time.monotonic() - saved > 60 * self.options.save_minutes:
                self.save()
                saved = time.monotonic()
        bar.close()
        if self.rank == 0:
            self.save()

    def _set_rate(self, share: float) -> None:
        """A warmup, a long flat stretch and a straight fall to nothing."""
        rate = self.options.rate * min(1.0, (share + 1e-3) / 0.02, (1 - share) / 0.4)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["share"]

    def _average_gradients(self) -> None:
        """One exchange a step, so that a worker held up by other programs costs its own time only once."""
        if self.workers == 1:
            return
        gradients = [weight.grad for _, weight in self.named if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.workers
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _log(self, recent: deque[dict[str, float]], bar: tqdm[Any]) -> None:
        means = "  ".join(f"{key} {sum(log[key] for log in recent) / len(recent):.4f}" for key in recent[0])
        if bar.disable:
            print(f"{self.phase.name} {self.step:6d}  {self.elapsed / 60:6.1f} min  {means}", flush=True)
        else:
            bar.set_postfix_str(means)

    def save(self) -> None:
        """Writes the state."""
        state = {
            "weights": {name: weight.detach() for name, weight in self.named},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "elapsed": self.elapsed,
        }
        with aside(self.path) as part:
            torch.save(state, part)


def load(named: list[tuple[str, nn.Parameter]], weights: dict[str, torch.Tensor]) -> None:
    """Copies the weights of these names."""
    with torch.no_grad():
        for name, weight in named:
            if name in weights:
                weight.copy_(weights[name])


def train(out: Path, options: Options) -> None:
    """All phases, in this process or in `options.workers` processes of one thread each.

    With several processes seeing and telling are learned at the same time, each in one of them; in the joint phase
    they share every batch and average their gradients.

    Raises:
        ValueError: there are no workers, or more than pictures in a batch.
        OtherRun: the folder holds a run with other options.
    """
    if not 1 <= options.workers <= MOST_WORKERS:
        raise ValueError(f"a batch of {MOST_WORKERS} pictures is shared by 1 to as many workers, not {options.workers}")
    out.mkdir(parents=True, exist_ok=True)
    keep_settings(out, options.settings)
    if not (out / "tokenizer.json").exists():
        tokenizer = train_tokenizer(sample_texts(6000, options.seed))
        write_whole(out / "tokenizer.json", tokenizer.to_str(pretty=True))
    if options.workers == 1:
        _work(0, out, options)
        return
    lock = get_context("spawn").RLock()
    with tempfile.TemporaryDirectory() as folder:
        work = (out, options, str(Path(folder) / "meeting"), lock)
        spawn(_work, work, nprocs=options.workers)  # type: ignore[no-untyped-call]


def _work(rank: int, out: Path, options: Options, meeting: str = "", lock: Any = None) -> None:
    """One worker; `lock` keeps the workers' progress bars out of each other's lines."""
    if options.workers > 1:
        tqdm.set_lock(lock)
        torch.set_num_threads(1)
        distributed.init_process_group(
            "gloo", f"file://{meeting}", timeout=timedelta(days=2), rank=rank, world_size=options.workers
        )
    learner = Learner(out, options)
    *alone, joint = phases(options)
    for index, phase in enumerate(alone):
        if index % options.workers == rank:
            Fit(learner, phase, out, options, position=rank).run()
    if options.workers > 1:
        distributed.barrier()
    if not (out / "joint.pt").exists():
        for phase in alone:
            state = torch.load(out / f"{phase.name}.pt", weights_only=True, map_location=learner.device)
            load(learner.named_parameters(), state["weights"])
    fit = Fit(learner, joint, out, options, rank, options.workers)
    fit.run()
    if rank == 0:
        learner.save_checkpoint(out / "checkpoint")
        print(f"done after {fit.elapsed / 60:.1f} minutes of the joint phase: {out / 'checkpoint'}")
    if options.workers > 1:
        distributed.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = Options()
    parser = argparse.ArgumentParser(
        prog="python -m training.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; continued if it holds one")
    parser.add_argument("--seed", type=between(0, 2**63 - 1), default=options.seed)
    parser.add_argument(
        "--workers",
        type=between(1, MOST_WORKERS),
        default=options.workers,
        help="processes of one thread each; 1 on a GPU",
    )
    parser.add_argument("--device", default=options.device, help="cpu or cuda")
    for phase in phases(options):
        parser.add_argument(f"--{phase.name}-steps", type=between(1, 10**9), default=phase.steps)
    given = vars(parser.parse_args(arguments))
    try:
        train(given.pop("out"), replace(options, **given))
    except OtherRun as error:
        parser.error(f"argument --out: {error}")


if __name__ == "__main__":
    main()
