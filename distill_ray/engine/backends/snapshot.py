"""Snapshots of a student and its optimiser, restored in place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Snapshot:
    """What a step changes on this rank, copied to the main memory."""

    module: nn.Module
    optimiser: torch.optim.Optimizer
    tensors: list[Tensor]
    """Copies, in the order of `_tensors`."""
    moments: dict[Tensor, dict[str, Any]]
    """Parameter → the optimiser's state of it."""
    copies: Sequence[Tensor] = ()
    """Live float32 copies of weights that the optimiser only has during a step."""
    counter: Any = None
    """Counts steps beside the optimiser."""
    counts: Mapping[str, int] | None = None
    """Attribute of `counter` → its value."""

    @classmethod
    def of(
        cls,
        module: nn.Module,
        optimiser: torch.optim.Optimizer,
        copies: Sequence[Tensor] = (),
        counter: Any = None,
        counts: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """Copy a student and its optimiser as they are.

        Args:
            module: the student; its parameters may be shards.
            optimiser: torch's own, of its parameters or of float32 copies of its shards.
            copies: float32 copies of shards, where the optimiser has them only during a step.
            counter: the object that counts steps beside the optimiser, if any.
            counts: attribute of `counter` → its value.
        """
        moments = {p: {k: _copy(v) for k, v in s.items()} for p, s in optimiser.state.items()}
        tensors = [_copy(tensor) for tensor in _tensors(module, optimiser, copies)]
        return cls(module, optimiser, tensors, moments, copies, counter, counts)

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, in place."""
        tensors = _tensors(self.module, self.optimiser, self.copies)
        for live, saved in zip(tensors, self.tensors, strict=True):
            live.copy_(saved)
        for parameter in list(self.optimiser.state):
            if parameter not in self.moments:  # It had had no step yet.
                del self.optimiser.state[parameter]
        for parameter, moments in self.moments.items():
            state = self.optimiser.state[parameter]
            for name, value in moments.items():
                if isinstance(value, Tensor):
                    state[name].copy_(value)
                else:
                    state[name] = value
        for name, count in (self.counts or {}).items():
            setattr(self.counter, name, count)


@torch.no_grad()
def forget(optimiser: torch.optim.Optimizer) -> None:
    """Clear the moments and step counts, as before the first step."""
    for state in optimiser.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor):
                value.zero_()
            elif name == "step":
                state[name] = 0


def _tensors(
    module: nn.Module, optimiser: torch.optim.Optimizer, copies: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Yield this rank's part of what is trained, and the optimiser's float32 copies of it."""
    own = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in own:
        yield parameter.data
        if hasattr(parameter, "ds_tensor"):  # ZeRO-3: `data` is empty, or a small one kept whole.
            yield parameter.ds_tensor.data
    yield from module.buffers()
    known = set(own)  # A tensor's hash is its identity.
    for group in optimiser.param_groups:
        yield from (parameter.data for parameter in group["params"] if parameter not in known)
    yield from (copy.data for copy in copies)


def _copy(value: Any) -> Any:
    return value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else value
