"""The teacher that serves now, and its change. B batch, T tokens, K kept predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.models.causal import head_of, hidden_states, require_head
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef


class TeacherBank:
    """Holds one teacher checkpoint in memory and swaps it on demand."""

    def __init__(
        self,
        ladders: Mapping[str, Sequence[ModelRef]],
        *,
        device: torch.device,
        execution: Execution | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self.ladders = ladders
        self._device, self._execution = device, execution or Execution()
        self._vocabulary = vocabulary
        self._current: tuple[str, int] | None = None
        self._model: Any = None

    def use(self, teacher: str, rung: int) -> None:
        """Make this checkpoint the one that answers; nothing is read when it already does."""
        if self._current == (teacher, rung):
            return
        # Let go first: two teachers at once may not fit. Should loading fail, none is in use.
        self._model = self._current = None
        ref = self.ladders[teacher][rung]
        precision = self._execution.precision
        model = load_frozen(ref, precision=precision, device=self._device)
        require_head(model)
        self._model, self._current = self._execution.prepare(model), (teacher, rung)

    @torch.no_grad()
    def head(self, input_ids: Tensor, position_ids: Tensor, at: Tensor) -> Head:
        """The kept predictions' hidden states, with the output weights of the one in use.

        Args:
            input_ids: [B, T].
            position_ids: [B, T].
            at: [K] places in the flattened [B, T].

        Raises:
            RuntimeError: none is in use.
        """
        if self._model is None:
            raise RuntimeError("no teacher in use: call use() first")
        hidden = hidden_states(self._model, input_ids, position_ids)
        features = hidden.flatten(0, 1).index_select(0, at)
        return head_of(self._model, features, self._vocabulary)
