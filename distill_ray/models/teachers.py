"""The teacher that serves now, and its change. B batch, T tokens, K kept predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.core.matching import States
from distill_ray.models.adapters import swap_adapter
from distill_ray.models.causal import head_of, outputs, require_head, states_of, wanted
from distill_ray.models.execution import Execution
from distill_ray.models.load import load_frozen
from distill_ray.models.ref import ModelRef


class Serving(Protocol):
    """A frozen model that answers."""

    def outputs(self, input_ids: Tensor, position_ids: Tensor, **wanted: bool) -> Any:
        """As `causal.outputs`."""

    def head(self, features: Tensor) -> Head:
        """Its head on [K, H] features."""

    def close(self) -> None:
        """Let go of the memory."""


class Whole:
    """All weights are in this process."""

    def __init__(self, model: Any, vocabulary: int | None = None) -> None:
        self.model, self._vocabulary = model, vocabulary

    def outputs(self, input_ids: Tensor, position_ids: Tensor, **wanted: bool) -> Any:
        """As `causal.outputs`."""
        return outputs(self.model, input_ids, position_ids, **wanted)

    def head(self, features: Tensor) -> Head:
        """Its head on [K, H] features."""
        return head_of(self.model, features, self._vocabulary)

    def close(self) -> None:
        """Nothing is left when it isn't referred to any more."""


class TeacherBank:
    """Holds one teacher checkpoint in memory and swaps it on demand."""

    def __init__(
        self,
        ladders: Mapping[str, Sequence[ModelRef]],
        *,
        device: torch.device,
        execution: Execution | None = None,
        vocabulary: int | None = None,
        shard: Callable[[Any, int | None], Serving] | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            ladders: teacher → its checkpoints.
            device: where it computes.
            execution: how.
            vocabulary: ids that the tokenizer has.
            shard: spreads a model in main memory, with its vocabulary, over the processes; left
                out, each has all of it.
        """
        self.ladders, self._shard = ladders, shard
        self._device, self._execution = device, execution or Execution()
        self._vocabulary = vocabulary
        self._current: tuple[str, int] | None = None
        self._model: Serving | None = None

    @classmethod
    def of(cls, model: Any, vocabulary: int | None = None) -> TeacherBank:
        """A bank of one frozen model that is in memory already, as rung 0 of `teacher`."""
        device = next(model.parameters()).device
        bank = cls({"teacher": ()}, device=device, vocabulary=vocabulary)
        bank._model, bank._current = Whole(model, vocabulary), ("teacher", 0)
        return bank

    def use(self, teacher: str, rung: int) -> None:
        """Make this checkpoint the one that answers; nothing is read when it already does."""
        if self._current == (teacher, rung):
            return
        ref = self.ladders[teacher][rung]
        if not self._swapped(ref):
            self._let_go()
            self._model = self._loaded(ref)
        self._current = (teacher, rung)

    def _swapped(self, ref: ModelRef) -> bool:
        """Whether this adapter could take the place of the one in use: megabytes, in place."""
        model = self._model.model if isinstance(self._model, Whole) else None
        if self._current is None or ref.adapter is None or not hasattr(model, "peft_config"):
            return False
        held = self.ladders[self._current[0]][self._current[1]]
        return held.base == ref.base and swap_adapter(model, ref.adapter)

    def _let_go(self) -> None:
        """Two teachers at once may not fit. Should loading fail, none is in use."""
        if self._model is not None:
            self._model.close()
        self._model = self._current = None

    def _loaded(self, ref: ModelRef) -> Serving:
        device = self._device if self._shard is None else torch.device("cpu")
        model = load_frozen(
            ref,
            precision=self._execution.precision,
            device=device,
            merge=self._shard is not None or not self._shares_base(ref),
        )
        require_head(model)
        return (self._shard or Whole)(self._execution.prepare(model), self._vocabulary)

    def _shares_base(self, ref: ModelRef) -> bool:
        """Whether another rung is an adapter on the same base."""
        rungs = [rung for ladder in self.ladders.values() for rung in ladder]
        return any(r.adapter not in (None, ref.adapter) and r.base == ref.base for r in rungs)

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
        return self.answer(input_ids, position_ids, at, {})[0]

    @torch.no_grad()
    def answer(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        at: Tensor,
        layers: Mapping[str, Sequence[int]],
    ) -> tuple[Head, States]:
        """The same, with the states of some layers, from one forward pass.

        Args:
            input_ids, position_ids, at: as in `head`.
            layers: `hidden` and `attention` → layers, counted from 1.
        """
        if self._model is None:
            raise RuntimeError("no teacher in use: call use() first")
        found = self._model.outputs(input_ids, position_ids, **wanted(layers))
        features = found.last_hidden_state.flatten(0, 1).index_select(0, at)
        head = self._model.head(features).softened(self._temperature)
        return head, states_of(found, at, layers)

    @property
    def _temperature(self) -> float:
        if self._current is None or not self.ladders[self._current[0]]:
            return 1.0
        return self.ladders[self._current[0]][self._current[1]].temperature
