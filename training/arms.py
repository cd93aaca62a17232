"""The paper's comparison at this scale: does answering in stages beat answering directly?

    python -m training.arms RUN --out DIR --seeds 3 --steps 800

Knows the arms and their tally. RUN is the folder of a training run (`training.train --out`). Every arm sees through the
frozen vision tower of its first phase, and learns a projector and a language side from nothing, for the same number of
gradient steps on equally large batches, which every trial draws for itself from the same scenes:

    staged     LLaVA-CoT's four tagged stages
    untagged   the same words as plain paragraphs, the last of which is the conclusion
    direct     the conclusion alone
    direct-2x  the same, by a model of at least twice the parameters

Under them stands `blind`, a guess from the question alone.

The tower is `vision.pt`'s, which has learned from dense labels alone, and not the finished checkpoint's: that one has
gone on learning from staged answers, and would see best what those speak of. What it makes of the scenes is computed
once. A stopped command goes on; finished arms are kept. Another tower, world, --steps, --scenes or --questions is
another comparison, and is refused in the same folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing import get_context
from tqdm import tqdm

from cotcli.shapes.questions import KINDS
from cotcli.shapes.scenes import make_scene
from training.arguments import between
from training.batches import Batch, BatchOptions, cross_attention_mask, preprocess
from training.blind import blind_answers, taught
from training.files import aside, write_whole
from training.greedy import greedy_answers
from training.held_out import MAX_ITEMS, held_out, score
from training.model import WIDTH
from training.settings import RUN, OtherRun, keep_settings, read_settings
from training.train import Fit, Learner, Options, Phase, load

_CHUNK = 64
_WORLD_SCENES = 1000
_BLIND_SCENES = 12_000
_position = 0  # the line of this process's progress bars


@dataclass(frozen=True)
class Arm:
    """`form` is one of tell.FORMS; `text_width` of the language side."""

    name: str
    form: str
    text_width: int = WIDTH


ARMS = (Arm("staged", "staged"), Arm("untagged", "untagged"), Arm("direct", "direct"), Arm("direct-2x", "direct", 512))


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """For example `staged-0`."""
        return f"{self.arm.name}-{self.seed}"


@dataclass(frozen=True)
class Comparison:
    """What decides all results: the run whose tower is used, gradient steps, scenes to learn from, questions asked."""

    source: Path
    out: Path
    steps: int
    scenes: int
    questions: int


class ArmLearner(Learner):
    """A learner with a frozen tower, whose pictures were looked at once (`seen.pt`)."""

    def __init__(self, out: Path, options: Options, arm: Arm, tower: dict[str, torch.Tensor]) -> None:
        super().__init__(out, options, arm.text_width)
        load(_tower_of(self), tower)
        seen = torch.load(out / "seen.pt", weights_only=True, mmap=True)
        self._states, self._tiles = seen["states"], seen["tiles"]

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """As Learner's, of the texts alone; see there."""
        assert batch.texts is not None
        rows, repeats = torch.tensor(batch.scene_seeds), batch.questions_per_image
        core = self.model.model
        states = core.multi_modal_projector(self._states[rows].float()).repeat_interleave(repeats, 0)
        length = batch.texts.input_ids.shape[1]
        mask = cross_attention_mask(self._tiles[rows], length, self.encoder.image_position, repeats)
        loss, decided = self._tell(batch.texts, states, mask)
        return loss, {"tell": loss.item(), "decided": decided.item()}


def _tower_of(learner: Learner) -> list[tuple[str, torch.nn.Parameter]]:
    """The vision tower's parameters under the names that states have."""
    return [(name, weight) for name, weight in learner.named_parameters() if "vision_model" in name]


def vision_tower(source: Path) -> dict[str, torch.Tensor]:
    """The weights of a run's vision tower as its first phase left them, before any answer was learned; float32.

    Raises:
        FileNotFoundError: the folder holds no such state.
        ValueError: the phase has not come to its end.
    """
    state: dict[str, Any] = torch.load(source / "vision.pt", weights_only=True, map_location="cpu")
    settings = read_settings(source)
    if settings is not None and state["step"] < settings["vision_steps"]:
        raise ValueError(
            f"the vision tower of {source} is at step {state['step']} of {settings['vision_steps']}: "
            f"python -m training.train --out {source} goes on with it"
        )
    return {name: weight for name, weight in state["weights"].items() if "vision_model" in name}


def fingerprint(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of names and values."""
    found = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        found.update(f"{name} {tuple(weight.shape)}\n".encode())
        found.update(weight.contiguous().numpy().tobytes())
    return found.hexdigest()


def begin(comparison: Comparison, tower: dict[str, torch.Tensor]) -> None:
    """Makes the folder, with the run's vocabulary, or sees that it holds this comparison.

    Raises:
        OtherRun: it holds another, or one of which is not known what it compares.
    """
    source, out = comparison.source, comparison.out
    out.mkdir(parents=True, exist_ok=True)
    if (out / "seen.pt").exists() and not (out / RUN).exists():
        raise OtherRun(f"{out} holds arms without a {RUN}, which says by what they see; give another --out")
    vocabulary = (source / "tokenizer.json").read_text(encoding="utf-8")
    settings = {
        "tower": fingerprint(tower),
        "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest(),
        "world": world(comparison),
        "steps": comparison.steps,
        "scenes": comparison.scenes,
        "questions": comparison.questions,
    }
    keep_settings(out, settings)
    write_whole(out / "tokenizer.json", vocabulary)


def world(comparison: Comparison) -> str:
    """SHA-256 of what is asked, the truth and the reference answers, and of some of what is learned from."""
    asked = [(item.question.text, item.question.truth, item.reference) for item in held_out(comparison.questions)]
    learned = [question.text for question in taught(min(comparison.scenes, _WORLD_SCENES))]
    return hashlib.sha256(json.dumps([asked, learned]).encode()).hexdigest()


def look(out: Path, tower: dict[str, torch.Tensor], scenes: int) -> None:
    """Writes `seen.pt`: the tower's states of scenes 0 to `scenes` - 1, float16, shape = (scenes, tokens, width)."""
    if (out / "seen.pt").exists():
        return
    learner = Learner(out, Options())
    load(_tower_of(learner), tower)
    sees = learner.model.eval().model.vision_model
    states: list[torch.Tensor] = []
    tiles: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in tqdm(range(0, scenes, _CHUNK), desc="looking", unit="batch", disable=None):
            images = preprocess([make_scene(seed) for seed in range(start, min(start + _CHUNK, scenes))])
            found = sees(**images).last_hidden_state
            states.append(found.reshape(found.shape[0], -1, found.shape[-1]).half())
            tiles.append(images["aspect_ratio_mask"])
    with aside(out / "seen.pt") as part:
        torch.save({"states": torch.cat(states), "tiles": torch.cat(tiles)}, part)


def run(trial: Trial, comparison: Comparison) -> dict[str, object]:
    """Trains one arm with one seed and asks it the held-out questions; writes `NAME.json`, or reads it."""
    out = comparison.out
    result_path = out / f"{trial.name}.json"
    if result_path.exists():
        found: dict[str, object] = json.loads(result_path.read_text(encoding="utf-8"))
        return found
    torch.set_num_threads(1)
    options = replace(Options(), seed=trial.seed, workers=1)
    learner = ArmLearner(out, options, trial.arm, vision_tower(comparison.source))
    batches = BatchOptions(16, questions=2, sees=False, form=trial.arm.form, scenes=comparison.scenes)
    phase = Phase(trial.name, comparison.steps, batches, lambda name: float(not _frozen(name)))
    fit = Fit(learner, phase, out, options, position=_position)
    fit.run()
    items = held_out(comparison.questions)
    texts = greedy_answers(learner.model.eval(), learner.tokenizer, items, position=_position)
    tally, _ = score(items, [_concluded(text, trial.arm.form) for text in texts])
    result: dict[str, object] = {
        "arm": trial.arm.name,
        "seed": trial.seed,
        "parameters": sum(weight.numel() for weight in learner.model.parameters()),
        "steps": comparison.steps,
        "minutes": round(fit.elapsed / 60, 1),
        "accuracy": tally.accuracy,
        "by_kind": tally.by_kind,
    }
    write_whole(result_path, json.dumps(result, indent=1) + "\n")
    return result


def _begin_worker(lock: Any, positions: Any) -> None:
    """Gives this process a line of its own for its progress bars; `lock` keeps the others out of it."""
    global _position
    tqdm.set_lock(lock)
    _position = positions.get()


def _frozen(name: str) -> bool:
    """Whether the parameter is the tower's, or the dense labels' head's, which no arm needs."""
    return "vision_model" in name or name.startswith("head.")


def _concluded(text: str, form: str) -> str:
    """An answer of any form -> one with a tagged conclusion, as judging wants it."""
    if form == "staged":
        return text
    return f"<CONCLUSION>{text.strip().rpartition(chr(10) * 2)[2]}</CONCLUSION>"


def table(results: list[dict[str, object]]) -> list[str]:
    """Mean and spread of each arm over its seeds, overall and by kind, in percent."""
    lines = [f"| arm | parameters | seeds | all | {' | '.join(KINDS)} |", "| --- " * (len(KINDS) + 4) + "|"]
    for arm in ARMS:
        own = [result for result in results if result["arm"] == arm.name]
        if not own:
            continue
        overall = [float(str(result["accuracy"])) for result in own]
        spread = f" ± {100 * statistics.stdev(overall):.1f}" if len(own) > 1 else ""
        kinds = [
            statistics.mean(result["by_kind"][kind] for result in own)  # type: ignore[index]
            for kind in KINDS
        ]
        cells = [f"{100 * statistics.mean(overall):.1f}{spread}", *(f"{100 * share:.1f}" for share in kinds)]
        parameters = int(str(own[0]["parameters"])) / 1e6
        lines.append(f"| {arm.name} | {parameters:.2f}M | {len(own)} | {' | '.join(cells)} |")
    return lines


def blind_row(questions: int, scenes: int = _BLIND_SCENES) -> str:
    """The table's line of guesses that have read two questions about each of so many scenes, and seen no picture."""
    items = held_out(questions)
    tally, _ = score(items, blind_answers(items, taught(scenes)))
    shares = (tally.accuracy, *tally.by_kind.values())
    return f"| blind | | | {' | '.join(f'{100 * share:.1f}' for share in shares)} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m training.arms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the folder of a training run, whose vision tower all use"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=between(1, 1000), default=3)
    parser.add_argument("--steps", type=between(1, 10**9), default=800)
    parser.add_argument(
        "--scenes", type=between(1, 10**9), default=12000, help="how many different scenes there are to learn from"
    )
    parser.add_argument(
        "--questions", type=between(1, MAX_ITEMS), default=500, help="held-out questions an arm is asked"
    )
    parser.add_argument("--workers", type=between(1, 512), default=2, help="arms at the same time, of one thread each")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    given = parser.parse_args(arguments)
    comparison = Comparison(given.run, given.out, given.steps, given.scenes, given.questions)
    try:
        tower = vision_tower(given.run)
        begin(comparison, tower)
    except OSError as error:
        parser.error(f"cannot use {given.run} and {given.out}: {error.filename}: {error.strerror}")
    except ValueError as error:
        parser.error(str(error))
    look(given.out, tower, given.scenes)
    blind = blind_row(given.questions)
    trials = [Trial(arm, seed) for seed in range(given.seeds) for arm in ARMS if arm.name in given.arms]
    context = get_context("spawn")
    positions = context.SimpleQueue()
    for position in range(given.workers):
        positions.put(position)
    with context.Pool(given.workers, _begin_worker, (context.RLock(), positions)) as pool:
        results = []
        for result in pool.imap_unordered(partial(run, comparison=comparison), trials):
            results.append(result)
            print("\n".join([*table(results), blind]), flush=True)


if __name__ == "__main__":
    main()
