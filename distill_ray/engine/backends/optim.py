"""The optimiser and its learning rate, the same in both backends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class OptimSpec:
    """AdamW with linear warm-up and a cosine down to a share of the peak."""

    learning_rate: float
    steps: int
    warmup_ratio: float = 0.1
    min_lr_ratio: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of step `step`, counted from 0."""
        warm = max(1, round(self.warmup_ratio * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        progress = min(1.0, (step - warm) / max(1, self.steps - warm))
        low = self.min_lr_ratio
        return self.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def adamw(module: nn.Module, spec: OptimSpec) -> torch.optim.AdamW:
    """Build AdamW (arXiv 1711.05101); matrices decay, norms and biases don't."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [g for g in groups if g["params"]], lr=spec.learning_rate, betas=(0.9, 0.95), fused=True
    )
