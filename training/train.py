"""Step 6: train the bundled model, from nothing to a checkpoint, with one seeded command.

    python -m training.train --out DIR --seed 0 --minutes 90

Knows the two phases, the losses and the schedule. First the vision tower alone learns, from dense labels, what lies
where; then the whole model learns to answer, while the dense labels stay as a small second loss. The head that reads
those labels is thrown away. Stopped at any time, the same command goes on from the last saved state.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import distributed, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from transformers import MllamaForConditionalGeneration

from cotcli.shapes.scenes import COLOURS, MAX_OBJECTS, SHAPES, SIZES
from training.batches import IGNORE, Batch, Batcher
from training.model import make_config, make_generation_config, make_image_processor, make_model, project
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

_HEAD_SIZES = (MAX_OBJECTS + 1, len(COLOURS), len(SHAPES), len(SIZES))


@dataclass(frozen=True)
class Options:
    """Everything that decides a run. `minutes` or `steps` ends it; steps make it repeatable bit for bit in schedule."""

    seed: int = 0
    minutes: float | None = None
    steps: int | None = None
    pictures: int = 24
    questions: int = 1
    vision_share: float = 0.34
    vision_pictures: int = 32
    learning_rate: float = 1e-3
    vision_rate: float = 0.35  # the vision tower's share of the rate in the second phase; a full one undoes the first
    patch_loss: float = 0.5
    workers: int = 2
    log_every: int = 20
    save_minutes: float = 4.0


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint."""

    step: int = 0
    elapsed: float = 0.0  # seconds, over all sittings


class PatchHead(nn.Module):
    """Reads place, colour, shape and size off each projected vision state; needed in training only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = nn.Linear(width, sum(_HEAD_SIZES))

    def forward(self, states: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (loss, share of objects whose four labels are all read rightly)."""
        parts = self.read(self.norm(states)).split(_HEAD_SIZES, dim=-1)
        there = labels[..., 0] > 0
        loss = nn.functional.cross_entropy(parts[0][~there], labels[..., 0][~there])  # apart: objects are rare
        right = torch.ones(int(there.sum()), dtype=torch.bool)
        for part, truth in zip(parts, labels[there].unbind(-1), strict=True):
            logits = part[there]
            loss = loss + 0.5 * nn.functional.cross_entropy(logits, truth)
            right &= logits.argmax(-1) == truth
        return loss, right.float().mean()


class Run:
    """A training run in a folder: `checkpoint/` is what others use, `state.pt` what the run goes on from."""

    def __init__(self, out: Path, options: Options, rank: int = 0) -> None:
        self.out, self.options, self.rank = out, options, rank
        self.progress = Progress()
        torch.manual_seed(options.seed)
        torch.set_num_threads(1)
        out.mkdir(parents=True, exist_ok=True)
        vocabulary = out / "checkpoint" / "tokenizer.json"
        if vocabulary.exists():
            self.tokenizer = Tokenizer.from_file(str(vocabulary))
        else:
            self.tokenizer = train_tokenizer(sample_texts(6000, options.seed))
        self.encoder = PromptEncoder(self.tokenizer)
        self.processor = make_image_processor()
        ids = {name: special_id(self.tokenizer, name) for name in (BOS, END_OF_TEXT, EOM, EOT, PAD)}
        self.model: MllamaForConditionalGeneration = make_model(make_config(ids[BOS], ids[EOT], ids[PAD]))
        self.model.generation_config = make_generation_config(
            ids[BOS], [ids[END_OF_TEXT], ids[EOM], ids[EOT]], ids[PAD]
        )
        self.head = PatchHead(self.model.config.text_config.hidden_size)
        self.weights = [*self.model.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.AdamW(self._groups(), lr=options.learning_rate, betas=(0.9, 0.98))
        self._bar = tqdm(
            total=1.0,
            desc="training",
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
            disable=rank != 0 or not sys.stderr.isatty(),
        )
        self._resume()

    def _groups(self) -> list[dict[str, Any]]:
        """Weights by part (vision: what the dense labels teach) and by whether they decay (2-D, not embeddings)."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        named = [*self.model.named_parameters(), *(("head", weight) for weight in self.head.parameters())]
        for name, weight in named:
            vision = name == "head" or "vision_model" in name or "projector" in name
            groups.setdefault((vision, weight.ndim == 2 and "embed" not in name), []).append(weight)
        return [
            {"params": weights, "weight_decay": 0.05 if decays else 0.0, "vision": vision}
            for (vision, decays), weights in sorted(groups.items())
        ]

    def share(self) -> float:
        """How much of the run is done, 0 to 1."""
        if self.options.steps is not None:
            return min(1.0, self.progress.step / self.options.steps)
        assert self.options.minutes is not None
        return min(1.0, self.progress.elapsed / (60 * self.options.minutes))

    def train(self) -> None:
        """Runs to the end, logging and saving on the way."""
        options = self.options
        began = time.monotonic() - self.progress.elapsed
        saved = time.monotonic()
        batches, phase_of_batches = None, None
        recent: deque[tuple[float, ...]] = deque(maxlen=options.log_every)
        while (share := self._agreed(self.share())) < 1:
            in_vision_phase = share < options.vision_share
            if batches is None or in_vision_phase != phase_of_batches:
                phase_of_batches = in_vision_phase
                batches = self._batcher(in_vision_phase).stream(self.progress.step)
            rate = self._set_rate(share)
            recent.append(self._step(next(batches), in_vision_phase))
            self.progress.step += 1
            self.progress.elapsed = time.monotonic() - began
            if self.rank != 0:
                continue
            if self.progress.step % options.log_every == 0:
                self._log(share, rate, recent)
            if time.monotonic() - saved > 60 * options.save_minutes:
                self.save()
                saved = time.monotonic()
        if self.rank != 0:
            return
        self.save()
        self._bar.close()
        print(f"done: {self.progress.step} steps, {self.progress.elapsed / 60:.1f} min, {self.out / 'checkpoint'}")

    def _batcher(self, in_vision_phase: bool) -> Batcher:
        options = self.options
        pictures, questions = (options.vision_pictures, 1) if in_vision_phase else (options.pictures, options.questions)
        return Batcher(self.processor, self.encoder, options.seed, pictures, questions, self.rank, options.workers)

    def _agreed(self, share: float) -> float:
        """The first worker's share: clocks differ, and all must switch phase and stop at the same step."""
        if self.options.workers == 1:
            return share
        told = torch.tensor(share, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return float(told)

    def _average_gradients(self) -> None:
        """One exchange a step, so that a worker held up by other programs costs its own time only once."""
        if self.options.workers == 1:
            return
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.options.workers
        for gradient, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _set_rate(self, share: float) -> float:
        """Warmup, a long high stretch and a fall at the end, once for each phase; to zero in the second."""
        options = self.options
        if share < options.vision_share:
            inside, floor = share / options.vision_share, 0.3
        else:
            inside, floor = (share - options.vision_share) / (1 - options.vision_share), 0.0
        shape = min(1.0, inside / 0.03) * (1 - (1 - floor) * inside**3)
        rate = options.learning_rate * max(shape, 1e-3)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * (options.vision_rate if group["vision"] and share >= options.vision_share else 1.0)
        return rate

    def _step(self, batch: Batch, in_vision_phase: bool) -> tuple[float, ...]:
        """-> answer loss, patch loss, share of patches read rightly, share of answer tokens right, answer tokens."""
        states = project(self.model, batch.images)
        patch_loss, read = self.head(states, batch.patch_labels)
        answer_loss, right, tokens = torch.zeros(()), torch.zeros(()), 0
        if in_vision_phase:
            loss = patch_loss
        else:
            hidden = self.model.model(
                input_ids=batch.input_ids,
                cross_attention_states=states.repeat_interleave(batch.questions_per_image, 0),
                cross_attention_mask=batch.cross_attention_mask,
                use_cache=False,
            ).last_hidden_state
            told = batch.labels != IGNORE
            logits, truth = self.model.lm_head(hidden[told]), batch.labels[told]
            weights = batch.weights[told]
            answer_loss = (nn.functional.cross_entropy(logits, truth, reduction="none") * weights).sum() / weights.sum()
            right = (logits.argmax(-1) == truth).float().mean()
            tokens = truth.numel()
            loss = answer_loss + self.options.patch_loss * patch_loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._average_gradients()
        nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return answer_loss.item(), patch_loss.item(), read.item(), right.item(), float(tokens)

    def _log(self, share: float, rate: float, recent: deque[tuple[float, ...]]) -> None:
        answer, patch, read, right, _ = (sum(column) / len(recent) for column in zip(*recent, strict=True))
        line = (
            f"{self.progress.step:6d}  {share:6.1%}  {self.progress.elapsed / 60:5.1f} min  lr {rate:.1e}  "
            f"answer {answer:.4f}  right {right:.4f}  patch {patch:.4f}  read {read:.3f}"
        )
        if self._bar.disable:
            print(line, flush=True)
        else:
            self._bar.n = share
            self._bar.set_postfix_str(line)

    def save(self) -> None:
        """Writes the checkpoint folder and the state, each whole or not at all."""
        save_checkpoint(self.model, self.tokenizer, self.processor, self.out / "checkpoint")
        state = {
            "model": self.model.state_dict(),
            "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        partial = self.out / "state.pt.partial"
        torch.save(state, partial)
        os.replace(partial, self.out / "state.pt")

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])


def save_checkpoint(model: Any, tokenizer: Any, processor: Any, folder: Path) -> None:
    """An ordinary transformers checkpoint; files are written aside and moved into place one by one."""
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    save_tokenizer(tokenizer, partial)
    for path in sorted(partial.iterdir()):
        os.replace(path, folder / path.name)
    partial.rmdir()


def _work(rank: int, out: Path, options: Options, meeting: str) -> None:
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=options.workers)
    Run(out, options, rank).train()
    distributed.destroy_process_group()


def train(out: Path, options: Options) -> None:
    """Trains in this process, or in `options.workers` processes of one thread each that average their gradients."""
    if options.workers == 1:
        Run(out, options).train()
        return
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        spawn(_work, (out, options, meeting), nprocs=options.workers)  # type: ignore[no-untyped-call]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; continued if it holds one")
    parser.add_argument("--seed", type=int, default=Options.seed)
    parser.add_argument("--workers", type=int, default=Options.workers, help="processes of one thread each")
    parser.add_argument("--learning-rate", type=float, default=Options.learning_rate)
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="train for so long")
    length.add_argument("--steps", type=int, help="train so many steps")
    given = vars(parser.parse_args())
    train(given.pop("out"), Options(**given))


if __name__ == "__main__":
    main()
