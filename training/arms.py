"""The paper's comparison at this scale: does answering in stages beat answering directly?

    python -m training.arms CHECKPOINT --out DIR --seeds 3 --steps 800

Knows the arms and their tally. Every arm sees through the frozen vision tower of CHECKPOINT, and learns a projector
and a language side from nothing on the same scenes, questions and batches, for the same number of gradient steps:

    staged     LLaVA-CoT's four tagged stages
    untagged   the same words as plain paragraphs, the last of which is the conclusion
    direct     the conclusion alone
    direct-2x  the same, by a model of at least twice the parameters

What the tower makes of the scenes is computed once. A stopped command goes on; finished runs are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch.multiprocessing import get_context
from tqdm import tqdm
from transformers import MllamaForConditionalGeneration

from cotcli.shapes.questions import KINDS
from cotcli.shapes.scenes import make_scene
from training.batches import Batch, BatchOptions, cross_attention_mask, preprocess
from training.greedy import greedy_answers
from training.held_out import held_out, score
from training.model import WIDTH
from training.train import Fit, Learner, Options, Phase, load, save_whole

_CHUNK = 64


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


class ArmLearner(Learner):
    """A learner whose pictures were looked at once, by the frozen tower."""

    def __init__(self, out: Path, options: Options, arm: Arm, tower: MllamaForConditionalGeneration) -> None:
        super().__init__(out, options, arm.text_width)
        named = [(name, weight) for name, weight in self.named_parameters() if "vision_model" in name]
        load(named, tower.state_dict())
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


def look(checkpoint: Path, out: Path, scenes: int) -> None:
    """Writes `seen.pt`: the tower's states of scenes 0 to `scenes` - 1, float16, shape = (scenes, tokens, width)."""
    if (out / "seen.pt").exists():
        return
    tower = MllamaForConditionalGeneration.from_pretrained(checkpoint).eval().model.vision_model
    states: list[torch.Tensor] = []
    tiles: list[torch.Tensor] = []
    with torch.inference_mode():
        for start in tqdm(range(0, scenes, _CHUNK), desc="looking", unit="batch", disable=None):
            images = preprocess([make_scene(seed) for seed in range(start, min(start + _CHUNK, scenes))])
            found = tower(**images).last_hidden_state
            states.append(found.reshape(found.shape[0], -1, found.shape[-1]).half())
            tiles.append(images["aspect_ratio_mask"])
    save_whole({"states": torch.cat(states), "tiles": torch.cat(tiles)}, out / "seen.pt")


def run(trial: Trial, checkpoint: Path, out: Path, steps: int, scenes: int, questions: int) -> dict[str, object]:
    """Trains one arm with one seed and asks it `questions` held-out questions; writes `NAME.json`."""
    result_path = out / f"{trial.name}.json"
    if result_path.exists():
        found: dict[str, object] = json.loads(result_path.read_text(encoding="utf-8"))
        return found
    torch.set_num_threads(1)
    options = replace(Options(), seed=trial.seed, workers=1)
    tower = MllamaForConditionalGeneration.from_pretrained(checkpoint)
    learner = ArmLearner(out, options, trial.arm, tower)
    batches = BatchOptions(16, questions=2, sees=False, form=trial.arm.form, scenes=scenes)
    phase = Phase(trial.name, steps, batches, lambda name: float(not _frozen(name)))
    fit = Fit(learner, phase, out, options)
    fit.run()
    items = held_out(questions)
    texts = greedy_answers(learner.model.eval(), learner.tokenizer, items)
    tally, _ = score(items, [_concluded(text, trial.arm.form) for text in texts])
    result: dict[str, object] = {
        "arm": trial.arm.name,
        "seed": trial.seed,
        "parameters": sum(weight.numel() for weight in learner.model.parameters()),
        "steps": steps,
        "minutes": round(fit.elapsed / 60, 1),
        "accuracy": tally.accuracy,
        "by_kind": {kind: tally.right[kind] / max(1, tally.asked[kind]) for kind in KINDS},
    }
    result_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="a folder saved by training.train, whose vision tower all use")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--scenes", type=int, default=12000, help="how many different scenes there are to learn from")
    parser.add_argument("--questions", type=int, default=500, help="held-out questions an arm is asked")
    parser.add_argument("--workers", type=int, default=2, help="runs at the same time, of one thread each")
    names = [arm.name for arm in ARMS]
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    vocabulary = given.out / "tokenizer.json"
    if not vocabulary.exists():
        vocabulary.write_bytes((given.checkpoint / "tokenizer.json").read_bytes())
    look(given.checkpoint, given.out, given.scenes)
    trials = [Trial(arm, seed) for seed in range(given.seeds) for arm in ARMS if arm.name in given.arms]
    work = partial(
        run,
        checkpoint=given.checkpoint,
        out=given.out,
        steps=given.steps,
        scenes=given.scenes,
        questions=given.questions,
    )
    with get_context("spawn").Pool(given.workers) as pool:
        results = []
        for result in pool.imap_unordered(work, trials):
            results.append(result)
            print("\n".join(table(results)), flush=True)


if __name__ == "__main__":
    main()
