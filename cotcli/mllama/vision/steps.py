"""The order of the vision tower's steps, which is the same wherever they are computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cotcli.mllama.hparams import VisionHParams


class Steps(Protocol):
    """One image's way through the tower, on one device."""

    def embed(self) -> None:
        """Patch, tile and position embeddings, class tokens, first LayerNorm; padding rows are zero after it."""

    def keep_state(self, index: int) -> None:
        """Puts the hidden state into the result where it is one of the intermediate states, interleaved by feature."""

    def layer(self, name: str) -> None:
        """One encoder layer (transformers MllamaVisionEncoderLayer); layers of the global encoder are gated."""

    def between(self) -> None:
        """Last LayerNorm of the local encoder and the second tile embedding, which the padding rows get too."""

    def project(self) -> npt.NDArray[np.float32]:
        """The final state joins the intermediate ones; the projector takes them to the language model's width."""


def take(
    steps: Steps, hparams: VisionHParams, on_progress: Callable[[int, int], None] | None
) -> npt.NDArray[np.float32]:
    """Takes all steps; arguments and result as of ``vision.VisionTower.encode``."""
    total = hparams.num_hidden_layers + hparams.num_global_layers
    report = on_progress or (lambda done, total: None)
    steps.embed()
    report(0, total)
    steps.keep_state(0)
    for i in range(hparams.num_hidden_layers):
        steps.layer(f"v.blk.{i}")
        steps.keep_state(i + 1)
        report(i + 1, total)
    steps.between()
    for i in range(hparams.num_global_layers):
        steps.layer(f"v.global_blk.{i}")
        report(hparams.num_hidden_layers + i + 1, total)
    return steps.project()
