"""The sizes that models.toml states of pairs, against the plans that convert would make."""

from __future__ import annotations

from pathlib import Path

from gguf import SpecialVocab

from benchmarks.pair_sizes import pair_plans
from benchmarks.random_checkpoint import LLAVA_COT, write_configs
from convert.tokenizer import Vocabulary
from cotcli.specs import specs


def test_sizes_of_the_11b_models(tmp_path: Path) -> None:
    """But for the vocabulary: the true one is not at hand here, and takes 7 to 9 MB."""
    write_configs(tmp_path, LLAVA_COT)
    plans = dict(pair_plans(tmp_path, Vocabulary([], [], SpecialVocab(tmp_path))))
    for name in ("llava-cot", "llama-3.2-vision", "mulberry", "llamav-o1"):
        sizes = specs()[name].sizes
        assert list(sizes) == list(plans)
        for quant, pair in plans.items():
            assert 7_000_000 < sizes[quant] - sum(plan.data_bytes for plan in pair) < 9_000_000, (name, quant)
