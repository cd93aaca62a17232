"""Writes a random pair of the true 11B shapes at any quantization, without a checkpoint on the disk.

    python -m benchmarks.random_pair OUT --type q4_k_m          # 7.8 GB
    python -m benchmarks.random_pair OUT --layers 5 --vision-layers 4 --global-layers 2

The weights of ``benchmarks.random_checkpoint`` through the code of ``cotcli convert``. Shards are made one by one,
converted, and dropped: it takes some 2 GB of disk beside the pair.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.random_checkpoint import add_shape_arguments, given_shapes, random_shards
from convert.checkpoint import open_checkpoint
from convert.language import plan_language
from convert.pair import Plan, write_pair
from convert.quantize import QUANTIZATIONS, VISION_TYPES, find_quantization, find_vision_type
from convert.tokenizer import read_vocabulary
from convert.vision import plan_mmproj
from cotcli.install import locked
from cotcli.mllama.hparams import HParams
from cotcli.native.cpu import available_threads

_SHARD_BYTES = 1_000_000_000
_NAME = "random"


def write_random_pair(out: Path, hparams: HParams, quant: str, vision_type: str | None, seed: int) -> tuple[Path, int]:
    """Writes ``random-QUANT.gguf`` and its mmproj into ``out``; the language file, and the bytes of both."""
    quantization = find_quantization(quant)
    vision = find_vision_type(vision_type, quantization)
    out.mkdir(parents=True, exist_ok=True)
    language = out / f"{_NAME}-{quantization.name}.gguf"
    with TemporaryDirectory(dir=out) as folder, locked(language):
        checkpoint = open_checkpoint(random_shards(Path(folder), hparams, seed, _SHARD_BYTES))
        vocabulary = read_vocabulary(Path(folder), hparams.text)
        plans = (
            plan_language(checkpoint, vocabulary, quantization, _NAME),
            plan_mmproj(checkpoint, quantization, vision, _NAME),
        )
        plan = Plan(language, checkpoint, plans, quantization.name, vision.name)
        try:
            record = write_pair(plan, available_threads())
        finally:
            shutil.rmtree(plan.work, ignore_errors=True)  # the shards' place, empty at best
    return language, record.language.bytes + record.mmproj.bytes


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write, made if needed")
    parser.add_argument("--type", default="q4_k_m", choices=list(QUANTIZATIONS))
    parser.add_argument("--vision-type", choices=list(VISION_TYPES))
    add_shape_arguments(parser)
    given = parser.parse_args()
    begin = time.perf_counter()
    language, size = write_random_pair(given.out, given_shapes(given), given.type, given.vision_type, given.seed)
    print(f"{language} and its mmproj: {size / 1e9:.2f} GB in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
