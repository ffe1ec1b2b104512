"""The teacher that serves now, and its change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef


class TeacherBank:
    """Holds one teacher checkpoint in memory and swaps it on demand."""

    def __init__(
        self,
        ladders: Mapping[str, Sequence[ModelRef]],
        *,
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.ladders = ladders
        self._device, self._precision = device, precision
        self._current: tuple[str, int] | None = None
        self._model: Any = None

    def use(self, teacher: str, rung: int) -> None:
        """Make this checkpoint the one that answers; nothing is read when it already does."""
        if self._current == (teacher, rung):
            return
        # Let go first: two teachers at once may not fit. Should loading fail, none is in use.
        self._model = self._current = None
        ref = self.ladders[teacher][rung]
        self._model = load_frozen(ref, precision=self._precision, device=self._device)
        self._current = (teacher, rung)

    @torch.no_grad()
    def logits(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        """[B, T, V] logits of the checkpoint in use."""
        if self._model is None:
            raise RuntimeError("no teacher in use: call use() first")
        output = self._model(input_ids=input_ids, position_ids=position_ids, use_cache=False)
        return output.logits  # type: ignore[no-any-return]
