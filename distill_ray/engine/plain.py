"""The backend without DeepSpeed: one process, or several that add up their gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill_ray.engine import comm
from distill_ray.engine.optim import OptimSpec, adamw


class PlainBackend:
    """PyTorch alone. The yardstick that the other backend is held against."""

    def __init__(
        self, module: Any, spec: OptimSpec, device: torch.device, *, autocast: bool = False
    ) -> None:
        self.device = device
        self._autocast = autocast
        self._module = module.to(device)
        self._spec = spec
        self._optimiser = adamw(self._module, spec)
        self._trained = [p for p in self._module.parameters() if p.requires_grad]

    def logits(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, T, V]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            output = self._module(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        return output.logits  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add this micro-batch's gradient."""
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        """Clip, update, clear; returns the gradient's norm before clipping."""
        for parameter in self._trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            comm.sum_over_ranks(parameter.grad)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._spec.clip)
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(norm)

    def train(self, mode: bool) -> None:
        """Training or evaluation mode."""
        self._module.train(mode)

    def save(self, folder: Path) -> None:
        """Write weights and optimiser state; every rank holds the same, so rank 0 writes."""
        if comm.rank() == 0:
            state = {"model": self._module.state_dict(), "optimiser": self._optimiser.state_dict()}
            torch.save(state, folder / "plain.pt")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
        state = torch.load(folder / "plain.pt", map_location=self.device, weights_only=True)
        self._module.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])

    @contextmanager
    def whole(self) -> Iterator[Any]:
        """The student's model."""
        yield self._module
