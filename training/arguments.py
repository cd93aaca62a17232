"""What numbers and folders an option takes: one check for every command of this package."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


def between(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return number

    return parse


def checkpoint_folder(text: str) -> Path:
    """An argparse type: a checkpoint with its tokenizer. Names of others transformers would look for on the hub."""
    folder = Path(text)
    for name in ("config.json", "tokenizer.json", "model*.safetensors"):
        if not any(folder.glob(name)):
            raise argparse.ArgumentTypeError(f"{text!r} is no folder of a checkpoint: it has no {name}")
    return folder
