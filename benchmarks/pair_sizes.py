"""What a pair of the true 11B shapes takes on the disk, by quantization: the `sizes` of models.toml.

    python -m benchmarks.pair_sizes

Nothing is converted: sizes follow from shapes, types and the vocabulary. That is the true one; see
``benchmarks.llama3_tokenizer`` for what it needs. A checkpoint's own chat template may differ by some kilobytes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from math import prod
from pathlib import Path

from benchmarks.llama3_tokenizer import write_tokenizer
from benchmarks.random_checkpoint import LLAVA_COT, tensors, write_configs
from convert import QUANTIZATIONS
from convert.checkpoint import Checkpoint
from convert.config import read_config
from convert.language import plan_language
from convert.plan import FilePlan
from convert.quantize import find_vision_type
from convert.shards import StoredTensor
from convert.sources import Folder
from convert.tokenizer import Vocabulary, read_vocabulary
from convert.vision import plan_mmproj


def pair_plans(folder: Path, vocabulary: Vocabulary) -> Iterator[tuple[str, tuple[FilePlan, FilePlan]]]:
    """Both files' plans for each quantization, of a checkpoint of these settings with tensors that are not there."""
    stored = {
        tensor.name: StoredTensor("none", "none", tensor.name, "BF16", tensor.shape, 0, 2 * prod(tensor.shape))
        for tensor in tensors(LLAVA_COT)
    }
    checkpoint = Checkpoint(Folder(folder), read_config(folder), stored)
    for quantization in QUANTIZATIONS.values():
        yield (
            quantization.name,
            (
                plan_language(checkpoint, vocabulary, quantization, "llava-cot"),
                plan_mmproj(checkpoint, quantization, find_vision_type(None, quantization), "llava-cot"),
            ),
        )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_configs(folder, LLAVA_COT)
        write_tokenizer(folder)
        for quant, plans in pair_plans(folder, read_vocabulary(folder, LLAVA_COT.text)):
            print(f"{quant} = {sum(plan.file_bytes for plan in plans):_}")


if __name__ == "__main__":
    main()
