"""What the loop needs of a training backend."""

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
        """The losses of a batch's kept predictions [K].

        Args:
            batch: on the backend's device.
            positions: [K] their places in the flattened [B, T].
            targets: what they are pulled towards.
            match_targets: what their inner layers are pulled towards, if they are matched.
        """

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping.

        A gradient that isn't finite is cleared without an update, on every rank alike.
        """

    def forget(self) -> None:
        """Let the optimiser begin anew: no moments, no steps counted."""

    def snapshot(self) -> Snapshot:
        """All that a step changes on this rank, copied to the main memory."""

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of weights and optimiser state."""

    def load(self, folder: Path, world: int) -> None:
        """Read what `save` wrote on `world` ranks; there may be more or fewer now."""

    def unsharded(self) -> AbstractContextManager[Any]:
        """The student as a model whose parameters are whole; entered by every rank."""
