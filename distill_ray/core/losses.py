"""Losses against the data. B batch, T tokens, V vocabulary, N kept tokens."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from distill_ray.core.divergence import require_shape
from distill_ray.core.sums import TokenSum


def cross_entropy(logits: Tensor, targets: Tensor, mask: Tensor) -> TokenSum:
    """Sum of -log q(target) over kept tokens, in nats, in float32.

    Args:
        logits: [B, T, V]; receives the gradient.
        targets: [B, T] int64 token ids that each position should predict.
        mask: [B, T] bool; True where a token counts.

    Raises:
        ValueError: the shapes don't fit.
    """
    require_shape("targets", targets, logits.shape[:-1])
    require_shape("mask", mask, logits.shape[:-1])
    # Selecting first keeps masked NaNs out, and keeps a graph on an empty mask.
    total = F.cross_entropy(logits[mask].float(), targets[mask], reduction="sum")
    return TokenSum(total, mask.sum())
