"""The backend without DeepSpeed: one process, or several that add up their gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.head_loss import LossTargets
from distill_ray.core.matching import MatchTargets
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.backends.optim import OptimSpec, adamw
from distill_ray.engine.backends.snapshot import Snapshot, forget
from distill_ray.engine.backends.student import Student
from distill_ray.engine.objective import Losses


class PlainBackend:
    """PyTorch alone. Tests compare the DeepSpeed backend with it."""

    def __init__(
        self, student: Student, spec: OptimSpec, device: torch.device, *, autocast: bool = False
    ) -> None:
        self.device = device
        self._autocast = autocast
        self._student = student.to(device)
        self._spec = spec
        self._optimiser = adamw(self._student, spec)
        self._trained = [p for p in self._student.parameters() if p.requires_grad]

    def losses(
        self,
        batch: Batch,
        positions: Tensor,
        targets: LossTargets,
        match_targets: MatchTargets | None = None,
    ) -> Losses:
        """Compute the losses of a batch's supervised predictions [K]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            ids, places = batch.input_ids, batch.position_ids
            return Losses(*self._student(ids, places, positions, targets, match_targets))

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            comm.sum_over_ranks(parameter.grad)
        norm = float(torch.nn.utils.clip_grad_norm_(self._trained, self._spec.max_grad_norm))
        if math.isfinite(norm):
            for group in self._optimiser.param_groups:
                group["lr"] = learning_rate
            self._optimiser.step()
        self._optimiser.zero_grad()
        return norm

    def forget(self) -> None:
        """Reset the optimiser's moments and step counts."""
        forget(self._optimiser)

    def snapshot(self) -> Snapshot:
        """Copy all that a step changes to main memory."""
        return Snapshot.of(self._student, self._optimiser)

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode."""
        self._student.train(mode)

    def save(self, folder: Path) -> None:
        """Write weights and optimiser state; every rank holds the same, so rank 0 writes."""
        if comm.rank() == 0:
            student = self._student.state_dict()
            state = {"student": student, "optimiser": self._optimiser.state_dict()}
            torch.save(state, folder / "plain.pt")

    def load(self, folder: Path, world: int) -> None:
        """Read what `save` wrote: the same for any number of ranks."""
        state = torch.load(folder / "plain.pt", map_location=self.device, weights_only=True)
        self._student.load_state_dict(state["student"])
        self._optimiser.load_state_dict(state["optimiser"])

    @contextmanager
    def unsharded(self) -> Iterator[Any]:
        """Give the student's model; nothing is sharded here."""
        yield self._student.model
