"""Teachers in memory, and swaps of their checkpoints. B batch, T tokens, K supervised tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.core.matching import States
from distill_ray.models.adapters import swap_adapter
from distill_ray.models.causal import head_of, output_flags, outputs, require_head, states_of
from distill_ray.models.execution import Execution
from distill_ray.models.load import config_of, load_frozen
from distill_ray.models.prefetch import Prefetcher, copy_weights
from distill_ray.models.ref import ModelRef


class Serving(Protocol):
    """A frozen model that computes hidden states and heads."""

    def outputs(self, input_ids: Tensor, position_ids: Tensor, **flags: bool) -> Any:
        """Run the backbone, as `causal.outputs` does."""

    def head(self, features: Tensor) -> Head:
        """Return the model's head on [K, H] features."""

    def close(self) -> None:
        """Free the memory."""


class UnshardedTeacher:
    """A teacher whose weights are all in this process."""

    def __init__(self, model: Any, vocabulary: int | None = None) -> None:
        self.model, self._vocabulary = model, vocabulary

    def outputs(self, input_ids: Tensor, position_ids: Tensor, **flags: bool) -> Any:
        """Run the backbone, as `causal.outputs` does."""
        return outputs(self.model, input_ids, position_ids, **flags)

    def head(self, features: Tensor) -> Head:
        """Return the model's head on [K, H] features."""
        return head_of(self.model, features, self._vocabulary)

    def close(self) -> None:
        """Do nothing: Python frees the model when nothing refers to it."""


class TeacherBank:
    """Holds one teacher checkpoint in memory and swaps it on demand."""

    def __init__(
        self,
        checkpoints: Mapping[str, Sequence[ModelRef]],
        *,
        device: torch.device,
        execution: Execution | None = None,
        vocabulary: int | None = None,
        shard: Callable[[Any, int | None], Serving] | None = None,
    ) -> None:
        """Load nothing yet.

        Args:
            checkpoints: teacher → its checkpoints.
            device: where the teacher computes.
            execution: how it computes.
            vocabulary: number of ids that the tokenizer has.
            shard: shards a model in main memory, with its vocabulary, over the processes; by
                default each process holds all of it.
        """
        self.checkpoints, self._shard = checkpoints, shard
        self._device, self._execution = device, execution or Execution()
        self._vocabulary = vocabulary
        self._current: tuple[str, int] | None = None
        self._model: Serving | None = None
        self._ahead = Prefetcher(device)

    @classmethod
    def of(cls, model: Any, vocabulary: int | None = None) -> TeacherBank:
        """Make a bank of one frozen model in memory, as checkpoint 0 of `teacher`."""
        device = next(model.parameters()).device
        bank = cls({"teacher": ()}, device=device, vocabulary=vocabulary)
        bank._model, bank._current = UnshardedTeacher(model, vocabulary), ("teacher", 0)
        return bank

    def expect(self, teacher: str, checkpoint_index: int) -> None:
        """Prefetch this checkpoint into main memory, in the background."""
        ref, held = self.checkpoints[teacher][checkpoint_index], self._held
        if isinstance(self._model, UnshardedTeacher) and not (held and _same_weights(ref, held)):
            self._ahead.read(_bare(ref), self._model.model)

    @property
    def reading(self) -> bool:
        """Whether a checkpoint is being read in the background."""
        return self._ahead.reading

    def use(self, teacher: str, checkpoint_index: int) -> None:
        """Switch to this checkpoint; does nothing if it is already in use."""
        if self._current == (teacher, checkpoint_index):
            return
        ref, held = self.checkpoints[teacher][checkpoint_index], self._held
        if held is None or not (_same_weights(ref, held) or self._try_swap(ref, held)):
            self._unload()
            self._model = self._load(ref)
        self._current = (teacher, checkpoint_index)

    @property
    def _held(self) -> ModelRef | None:
        """The checkpoint in memory."""
        if self._current is None or not self.checkpoints[self._current[0]]:
            return None
        return self.checkpoints[self._current[0]][self._current[1]]

    def _try_swap(self, ref: ModelRef, held: ModelRef) -> bool:
        """Swap in this checkpoint's weights without building a model; False if that can't be done.

        Adapters (megabytes) are read here; full weights must have been prefetched.
        """
        model = self._model.model if isinstance(self._model, UnshardedTeacher) else None
        weights = None if model is None else self._ahead.take(_bare(ref))
        if model is None or (weights is None and ref.adapter is None):
            return False
        if hasattr(model, "peft_config"):
            same = ref.adapter is not None and held.base == ref.base
            return same and swap_adapter(model, ref.adapter or "", weights)
        return ref.adapter is None and _same_form(ref, model) and copy_weights(model, weights or {})

    def _unload(self) -> None:
        """Free the current teacher first: two may not fit. If loading fails, none is in use."""
        if self._model is not None:
            self._model.close()
        self._model = self._current = None

    def _load(self, ref: ModelRef) -> Serving:
        device = self._device if self._shard is None else torch.device("cpu")
        model = load_frozen(
            ref,
            precision=self._execution.precision,
            device=device,
            merge=self._shard is not None or not self._shares_base(ref),
        )
        require_head(model)
        return (self._shard or UnshardedTeacher)(self._execution.prepare(model), self._vocabulary)

    def _shares_base(self, ref: ModelRef) -> bool:
        """Whether another checkpoint is an adapter on the same base."""
        refs = [ref for refs in self.checkpoints.values() for ref in refs]
        return any(r.adapter not in (None, ref.adapter) and r.base == ref.base for r in refs)

    @torch.no_grad()
    def head(self, input_ids: Tensor, position_ids: Tensor, positions: Tensor) -> Head:
        """Compute hidden states of supervised tokens, with the output weights of the model in use.

        Args:
            input_ids: [B, T].
            position_ids: [B, T].
            positions: [K] indices in the flattened [B, T].

        Raises:
            RuntimeError: no checkpoint is in use.
        """
        return self.answer(input_ids, position_ids, positions, {})[0]

    @torch.no_grad()
    def answer(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        positions: Tensor,
        layers: Mapping[str, Sequence[int]],
    ) -> tuple[Head, States]:
        """Compute the head, and the states of some layers, in one forward pass.

        Args:
            input_ids, position_ids, positions: as in `head`.
            layers: `hidden` and `attention` → layers, counted from 1.
        """
        if self._model is None:
            raise RuntimeError("no teacher in use: call use() first")
        outputs = self._model.outputs(input_ids, position_ids, **output_flags(layers))
        features = outputs.last_hidden_state.flatten(0, 1).index_select(0, positions)
        head = self._model.head(features).with_temperature(self._temperature)
        return head, states_of(outputs, positions, layers)

    @property
    def _temperature(self) -> float:
        return 1.0 if self._held is None else self._held.temperature


def _bare(ref: ModelRef) -> ModelRef:
    """Drop the temperature from a ref, which leaves the weights' identity."""
    return replace(ref, temperature=1.0)


def _same_weights(one: ModelRef, another: ModelRef) -> bool:
    return _bare(one) == _bare(another)


def _same_form(ref: ModelRef, model: Any) -> bool:
    """Whether a checkpoint's config equals that of a model in memory."""
    ignored = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    checkpoint_config, model_config = (
        {k: v for k, v in config.to_dict().items() if k not in ignored}
        for config in (config_of(ref), model.config.get_text_config(decoder=True))
    )
    return bool(checkpoint_config == model_config)
