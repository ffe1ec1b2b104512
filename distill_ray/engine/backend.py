"""What the loop needs of a training backend."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor


class Backend(Protocol):
    """The student with its optimiser, on one rank.

    `backward` gets this rank's share of the loss, already divided by global counts; the gradient
    that `step` applies is the sum over ranks and micro-batches.
    """

    device: torch.device

    def logits(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, T, V]."""

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping."""

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of weights and optimiser state."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""

    def whole(self) -> AbstractContextManager[Any]:
        """The student as a model whose parameters are whole; entered by every rank."""
