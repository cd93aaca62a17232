"""How long the vision tower takes, beside what the machine's matrix products would allow.

    python -m benchmarks.tower PAIR --tiles 4 1 --rounds 3

The bound is what NumPy's float32 product of the tower's largest matrices needs for the FLOPs of transformers, which
masks scores instead of leaving them out: 18.6e12 at 11B shapes, however many tiles a picture has. The tower's time is
with the projector. Each round measures the product's rate and then the tower, one number of tiles after the other.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.figures import Figure, add_json_argument, report
from cotcli.engine import Engine, EngineOptions
from cotcli.image import PreparedImage
from cotcli.mllama.hparams import HParams
from cotcli.registry import resolve

AIMS = {4: 1.5, 1: 1.1}
"""Times the bound, by tiles."""
_PRODUCTS = 20


def flops(hparams: HParams) -> float:
    """Of transformers' ``MllamaVisionModel`` for one picture: all products over all tiles, padding included."""
    vision = hparams.vision
    rows = vision.max_num_tiles * vision.num_padded_patches
    layers = vision.num_hidden_layers + vision.num_global_layers
    weights = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    patches = vision.max_num_tiles * (vision.num_patches - 1)  # without the class tokens
    embedding = patches * vision.patch_width * vision.hidden_size
    return 2.0 * (rows * layers * (weights + 2 * rows * vision.hidden_size) + embedding)


def sgemm_rate(hparams: HParams) -> float:
    """FLOP a second of NumPy's float32 product of all rows with an MLP's first matrix."""
    vision = hparams.vision
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((vision.max_num_tiles * vision.num_padded_patches, vision.hidden_size), np.float32)
    weights = rng.standard_normal((vision.hidden_size, vision.intermediate_size), np.float32)
    product = rows @ weights
    begin = time.perf_counter()
    for _ in range(_PRODUCTS):
        np.matmul(rows, weights, out=product)
    return float(2 * rows.size * weights.shape[1] * _PRODUCTS) / (time.perf_counter() - begin)


def noise(hparams: HParams, tiles: int) -> PreparedImage:
    """A picture of that many random tiles: the tower takes as long for it as for a photograph."""
    ratios = hparams.image.supported_aspect_ratios
    ratio = next(i for i, (height, width) in enumerate(ratios, 1) if height * width == tiles)
    side = hparams.vision.image_size
    pixels = np.zeros((hparams.vision.max_num_tiles, 3, side, side), np.float32)
    pixels[:tiles] = np.random.default_rng(tiles).standard_normal((tiles, 3, side, side), np.float32)
    return PreparedImage(pixels, ratio, tiles, "noise", "", side, side)


def measure(engine: Engine, tiles: Sequence[int], rounds: int) -> list[Figure]:
    """Seconds, and ratios to the bound, of each number of tiles."""
    hparams = engine.hparams
    work = flops(hparams)
    rates: list[float] = []
    seconds: dict[int, list[float]] = {count: [] for count in tiles}
    for _ in range(rounds):
        rates.append(sgemm_rate(hparams))
        for count, times in seconds.items():
            begin = time.perf_counter()
            engine.encode(noise(hparams, count))
            times.append(time.perf_counter() - begin)
    figures = [
        Figure("NumPy's float32 product", tuple(rate / 1e9 for rate in rates), "GFLOP/s"),
        Figure(f"bound of {work / 1e12:.1f} TFLOP", tuple(work / rate for rate in rates), "s"),
    ]
    for count, times in seconds.items():
        what = f"vision tower, {count} tile{'s' if count > 1 else ''}"
        ratios = tuple(taken * rate / work for taken, rate in zip(times, rates, strict=True))
        figures += [Figure(what, tuple(times), "s"), Figure(f"{what}: times the bound", ratios, "", AIMS.get(count))]
    return figures


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name or a path, as for cotcli --model")
    parser.add_argument("--tiles", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    add_json_argument(parser)
    given = parser.parse_args()
    files = resolve(given.model)
    with Engine(files.language, files.mmproj, EngineOptions(threads=given.threads, context_length=256)) as engine:
        report(measure(engine, given.tiles, given.rounds), given.json)


if __name__ == "__main__":
    main()
