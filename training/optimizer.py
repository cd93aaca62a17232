"""The optimizer: Muon for weight matrices, AdamW for everything else.

Knows parameters by name and shape. Knows nothing about the model's use or its data.
torch.optim.Muon orthogonalizes in bfloat16, which processors without it emulate slowly, and one matrix at a time;
here it is float32 and all matrices of one shape go together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration, by Keller Jordan, "Muon", 2024
_STEPS = 5
_BETAS = (0.9, 0.98)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly: singular values come to lie near 1. shape = (number, rows, columns)."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalized; its steps have the size of AdamW's, so that one learning rate serves both."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One step from the gradients as they are."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    by_shape[weight.shape].append(weight)
            for shape, weights in by_shape.items():
                updates = torch.stack([self._momentum(weight, group["momentum"]) for weight in weights])
                size = group["lr"] * 0.2 * max(shape) ** 0.5  # Liu et al. 2025, "Muon is Scalable", section 2.2
                for weight, update in zip(weights, orthogonalize(updates), strict=True):
                    weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)

    def _momentum(self, weight: nn.Parameter, momentum: float) -> torch.Tensor:
        """Nesterov's: the gradient after the momentum that it will have changed."""
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        assert weight.grad is not None
        state["momentum"].lerp_(weight.grad, 1 - momentum)
        result: torch.Tensor = weight.grad.lerp(state["momentum"], momentum)
        return result


def make_optimizers(
    named: Iterable[tuple[str, nn.Parameter]], rate: float, share: Callable[[str], float]
) -> list[torch.optim.Optimizer]:
    """Muon for matrices inside layers; AdamW for embeddings, tables, heads, norms, gates and the patch embedding.

    `share` gives a parameter's share of the rate; groups keep it under that name, for a schedule to use.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = defaultdict(list)
    for name, weight in named:
        inner = weight.ndim == 2 and "embed" not in name and "lm_head" not in name and not name.startswith("head.")
        groups[inner, share(name)].append(weight)
    parts: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for (inner, part), weights in sorted(groups.items(), key=lambda item: item[0]):
        parts[inner].append({"params": weights, "lr": rate * part, "share": part})
    optimizers: list[torch.optim.Optimizer] = []
    if parts[False]:
        optimizers.append(torch.optim.AdamW(parts[False], lr=rate, betas=_BETAS, weight_decay=0.0))
    if parts[True]:
        optimizers.append(Muon(parts[True], lr=rate, weight_decay=0.02))
    return optimizers
