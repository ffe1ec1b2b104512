"""Everything that a training run holds on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from distill_ray.core.schedule import (
    Decision,
    Ladders,
    Observation,
    Reassessment,
    ScheduleState,
    Switch,
)
from distill_ray.data.batches import Batch, BatchSource
from distill_ray.engine.backend import Backend
from distill_ray.engine.objective import Objective
from distill_ray.engine.optim import OptimSpec
from distill_ray.models.teachers import TeacherBank

MAX_HISTORY = 2000
"""Points of a training curve that are kept; a longer run keeps every k-th."""


@dataclass
class Teaching:
    """The teacher's side: which checkpoint serves, and what decides it."""

    bank: TeacherBank
    ladders: Ladders
    decide: Callable[[ScheduleState, Observation, Ladders], Decision]
    state: ScheduleState
    reassessment: Reassessment | None = None
    best_loss: float | None = None
    """Validation loss of the best teacher, measured before step 0; progress counts towards it."""
    switches: list[Switch] = field(default_factory=list)


@dataclass
class Validation:
    """Held-out batches, made anew for each measurement."""

    batches: Callable[[], Iterable[Batch]]
    due: Callable[[int], bool]
    """Whether to measure after this many steps. One more measurement comes before step 0."""


@dataclass
class Session:
    """A training run on one rank: what is trained, on what, towards what, and how far it is."""

    backend: Backend
    source: BatchSource
    num_micro: int
    objective: Objective
    optim: OptimSpec
    vocabulary: int | None = None
    """Token ids that the tokenizer has; embeddings may be padded beyond, each model's otherwise."""
    teaching: Teaching | None = None
    validation: Validation | None = None
    step: int = 0
    """Steps done."""
    initial_loss: float | None = None
    """Validation loss before step 0, from which progress counts."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The training curve: one entry a recorded step."""

    def student_logits(self, batch: Batch) -> Tensor:
        """[B, T, V] over the tokenizer's ids."""
        return self.backend.logits(batch.input_ids, batch.position_ids)[..., : self.vocabulary]

    def teacher_logits(self, batch: Batch) -> Tensor:
        """[B, T, V] over the tokenizer's ids, of the checkpoint in use."""
        assert self.teaching is not None
        made = self.teaching.bank.logits(batch.input_ids, batch.position_ids)
        return made[..., : self.vocabulary]

    @property
    def stride(self) -> int:
        """Steps between recorded points of the curve."""
        return max(1, -(-self.optim.steps // MAX_HISTORY))
