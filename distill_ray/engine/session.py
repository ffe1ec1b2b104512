"""Everything that a training run holds on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from distill_ray.engine.teacher import Colocated, TeacherSource

MAX_HISTORY = 2000
"""Points of a training curve that are kept; a longer run keeps every k-th."""


@dataclass(frozen=True)
class Matched:
    """Inner layers of the teacher that the student's are pulled towards."""

    source: Colocated
    layers: Callable[[str], Mapping[str, Sequence[int]]]
    """Teacher → kind of state → its layers."""


@dataclass
class Teaching:
    """The teacher's side: which checkpoint serves, and what decides it."""

    source: TeacherSource
    ladders: Ladders
    decide: Callable[[ScheduleState, Observation, Ladders], Decision]
    state: ScheduleState
    reassessment: Reassessment | None = None
    matched: Matched | None = None
    best_loss: float | None = None
    """Validation loss of the best teacher, measured before step 0; progress counts towards it."""
    switches: list[Switch] = field(default_factory=list)

    def use_current(self) -> None:
        """Make the checkpoint that the schedule says the one that answers."""
        self.source.use(self.state.teacher, self.state.rung)


@dataclass
class Validation:
    """Held-out batches, made anew for each measurement."""

    batches: Callable[[], Iterable[Batch]]
    due: Callable[[int], bool]
    """Whether to measure after this many steps. One more measurement comes before step 0."""


@dataclass(frozen=True)
class Stopping:
    """Training ends early when the held-out loss no longer falls (Prechelt 1998)."""

    ends: Sequence[int]
    """Steps after which a checkpoint is kept."""
    patience: int
    """Checkpoints in a row without a lower loss than the best before them."""

    def due(self, losses: Sequence[float]) -> bool:
        """Whether to stop, by the validation loss at every checkpoint so far."""
        if not losses:
            return False
        best = min(range(len(losses)), key=lambda i: losses[i])
        return len(losses) - 1 - best >= self.patience


@dataclass
class BadSteps:
    """Steps that were left out, since their loss or gradient wasn't finite."""

    limit: int = 10
    """How many in a row are too many."""
    total: int = 0
    in_a_row: int = 0
    keep: Callable[[str, dict[str, Any]], None] | None = None
    """Writes a batch that is set aside, under a name."""


@dataclass
class Session:
    """A training run on one rank: what is trained, on what, towards what, and how far it is."""

    backend: Backend
    source: BatchSource
    num_micro: int
    objective: Objective
    optim: OptimSpec
    teaching: Teaching | None = None
    validation: Validation | None = None
    stopping: Stopping | None = None
    """None trains to the end of the budget."""
    bad: BadSteps = field(default_factory=BadSteps)
    step: int = 0
    """Steps done."""
    initial_loss: float | None = None
    """Validation loss before step 0, from which progress counts."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The training curve: one entry a recorded step."""
    loaded: dict[int, list[Batch]] = field(default_factory=dict)
    """Step → its micro-batches, which were announced to the teacher."""

    def batches(self) -> list[Batch]:
        """The micro-batches of the next step; those behind it are announced to the teacher."""
        ahead = self.teaching.source.lookahead if self.teaching else 0
        last = max(self.step, min(self.step + ahead, self.optim.steps - 1))
        for step in range(self.step, last + 1):
            if step not in self.loaded:
                self.loaded[step] = self._load(step)
                if self.teaching is not None:
                    self.teaching.source.announce(self.loaded[step])
        return self.loaded.pop(self.step)

    def _load(self, step: int) -> list[Batch]:
        device = self.backend.device
        return [self.source.batch(step, m).to(device) for m in range(self.num_micro)]

    @property
    def stride(self) -> int:
        """Steps between recorded points of the curve."""
        return max(1, -(-self.optim.steps // MAX_HISTORY))
