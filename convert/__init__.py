"""HF checkpoint folder -> a pair of GGUF files that cotcli runs: the ``language`` file and the ``mmproj`` file.

    config.py      1  config.json and its companions -> HParams
    shards.py         safetensors files, rows on demand
    checkpoint.py  2  the folder as a whole, checked against the table of tensors
    tokenizer.py   3  tokenizer.json -> llama.cpp's vocabulary
    quantize.py       which type each tensor gets
    plan.py           what a file will hold, and where
    language.py    4  the language file's plan
    vision.py      5  the mmproj file's plan
    pair.py        6  both plans -> files, by chunks and threads, all or nothing

Needs no torch. ``python -m convert`` is the command ``cotcli convert``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convert.checkpoint import open_checkpoint
from convert.config import IntermediateStates
from convert.language import plan_language
from convert.pair import OutputFile, Progress, write_pair
from convert.quantize import QUANTIZATIONS, VISION_TYPES, find_quantization, find_vision_type
from convert.tokenizer import read_vocabulary
from convert.vision import plan_mmproj
from cotcli.errors import ResourceError, UsageError
from cotcli.native.cpu import available_threads

__all__ = [
    "QUANTIZATIONS",
    "VISION_TYPES",
    "ConvertedPair",
    "IntermediateStates",
    "Progress",
    "checkpoint_repo",
    "convert",
]

_MAX_THREADS = 16  # each holds some 50 MB


@dataclass(frozen=True)
class ConvertedPair:
    """What ``convert`` has written. ``pair_id`` stands in both files; sizes are in bytes."""

    language: Path
    mmproj: Path
    quantization: str
    vision_type: str
    pair_id: str
    language_bytes: int
    mmproj_bytes: int


def convert(
    source: Path | str,
    out_dir: Path | str,
    quantization: str = "q4_k_m",
    vision_type: str | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    threads: int | None = None,
    intermediate_states: IntermediateStates = "auto",
) -> ConvertedPair:
    """Converts a checkpoint folder into ``<name>-<QUANT>.gguf`` and ``<name>-<QUANT>.mmproj.gguf`` in ``out_dir``.

    Args:
        source: a folder with config.json, preprocessor_config.json, tokenizer.json and safetensors files.
        out_dir: made if it is not there. Files of the same names are replaced at the end.
        quantization: one of ``QUANTIZATIONS``; the cross-attention layers follow it too.
        vision_type: one of ``VISION_TYPES`` for vision tower and projector; None is f16, or f32 beside f32.
        name: the first part of the file names; None takes it from the folder.
        progress: called in this thread after each piece of work.
        threads: None is one for each CPU this process may use, 16 at most.
        intermediate_states: see ``convert.config.read_config``.

    Raises:
        UsageError: an unknown type or an impossible name.
        CheckpointError: the checkpoint is broken, incomplete or of another architecture; nothing has been written.
        ResourceError: not enough disk, or the folder cannot be written; nothing half-written is left.
    """
    source, out_dir = Path(source), Path(out_dir)
    chosen = find_quantization(quantization)
    vision = find_vision_type(vision_type, chosen)
    checkpoint = open_checkpoint(source, intermediate_states)
    vocabulary = read_vocabulary(source, checkpoint.config.hparams.text)
    name = checkpoint_repo(source).rpartition("/")[2] if name is None else name
    if not name or Path(name).name != name:
        raise UsageError(f"{name!r} cannot be the first part of a file name")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot make the folder {out_dir}: {error.strerror}") from error
    language = OutputFile(out_dir / f"{name}-{chosen.name}.gguf", plan_language(checkpoint, vocabulary, chosen, name))
    mmproj = OutputFile(out_dir / f"{name}-{chosen.name}.mmproj.gguf", plan_mmproj(checkpoint, chosen, vision, name))
    write_pair(language, mmproj, threads or _default_threads(), progress)
    return ConvertedPair(
        language=language.path,
        mmproj=mmproj.path,
        quantization=chosen.name,
        vision_type=vision.name,
        pair_id=checkpoint.pair_id,
        language_bytes=language.path.stat().st_size,
        mmproj_bytes=mmproj.path.stat().st_size,
    )


def checkpoint_repo(source: Path) -> str:
    """`OWNER/NAME` in the Hugging Face cache, where the folder's own name is a hash; elsewhere the folder's name."""
    folder = source.resolve()
    if folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--"):
        return folder.parents[1].name.removeprefix("models--").replace("--", "/", 1)
    return folder.name


def _default_threads() -> int:
    return min(available_threads(), _MAX_THREADS)
