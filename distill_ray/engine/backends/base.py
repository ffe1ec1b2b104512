"""The interface of training backends."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from distill_ray.core.head_loss import LossTargets
from distill_ray.core.matching import MatchTargets
from distill_ray.data.batches import Batch
from distill_ray.engine.backends.snapshot import Snapshot
from distill_ray.engine.objective import Losses


class Backend(Protocol):
    """The student with its optimiser, on one rank.

    `backward` gets this rank's share of the loss, already divided by global counts; the gradient
    that `step` applies is the sum over ranks and micro-batches.
    """

    device: torch.device

    def losses(
        self,
        batch: Batch,
        positions: Tensor,
        targets: LossTargets,
        match_targets: MatchTargets | None = None,
    ) -> Losses:
        """Compute the losses of a batch's supervised predictions [K].

        Args:
            batch: on the backend's device.
            positions: [K] their indices in the flattened [B, T].
            targets: labels and teacher output of these K predictions.
            match_targets: the teacher's inner states, where layers are matched.
        """

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping.

        A gradient that isn't finite is cleared without an update, on every rank alike.
        """

    def forget(self) -> None:
        """Reset the optimiser's moments and step counts."""

    def snapshot(self) -> Snapshot:
        """Copy all that a step changes on this rank to main memory."""

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of weights and optimiser state."""

    def load(self, folder: Path, world: int) -> None:
        """Read what `save` wrote on `world` ranks; the number of ranks may differ now."""

    def unsharded(self) -> AbstractContextManager[Any]:
        """Gather the student's parameters on every rank, for the block."""
