"""The sizes that models.toml states of pairs, against the plans that convert and loading would make."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import SpecialVocab

from benchmarks.pair_sizes import pair_plans
from benchmarks.random_checkpoint import LLAVA_COT, write_configs
from convert.tokenizer import Vocabulary
from cotcli.engine import EngineOptions
from cotcli.memory import plan, read_pair
from cotcli.mllama.weights import WeightFile
from cotcli.specs import specs

ELEVEN_B = ("llava-cot", "llama-3.2-vision", "mulberry", "llamav-o1")


def test_sizes_of_the_11b_models(tmp_path: Path) -> None:
    """But for the vocabulary: the true one is not at hand here, and takes 7 to 9 MB."""
    write_configs(tmp_path, LLAVA_COT)
    plans = dict(pair_plans(tmp_path, Vocabulary([], [], SpecialVocab(tmp_path))))
    for name in ELEVEN_B:
        sizes = specs()[name].sizes
        assert list(sizes) == list(plans)
        for quant, pair in plans.items():
            assert 7_000_000 < sizes[quant] - sum(plan.data_bytes for plan in pair) < 9_000_000, (name, quant)


def test_memory_of_the_11b_models(tmp_path: Path) -> None:
    """What `cotcli model show` says before there are files is what loading them on a CPU plans; F32 has larger caches.

    The files are headers, with nothing where the weights would be.
    """
    write_configs(tmp_path, LLAVA_COT)
    plans = dict(pair_plans(tmp_path, Vocabulary([], [], SpecialVocab(tmp_path))))
    for quant in ("Q4_K_M", "F16"):
        language, mmproj = tmp_path / "language.gguf", tmp_path / "mmproj.gguf"
        for path, file in zip((language, mmproj), plans[quant], strict=True):
            with path.open("wb") as out:
                out.write(file.front)
                out.truncate(file.file_bytes)
        planned = plan(
            read_pair(language, WeightFile(mmproj)), EngineOptions(context_length=4096, threads=8).demand, [], 0
        )
        for name in ELEVEN_B:
            assert specs()[name].memory_bytes[quant] == pytest.approx(planned.host.total, rel=0.005), (name, quant)
