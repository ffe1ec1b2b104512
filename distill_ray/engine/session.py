"""Everything that a training run holds on one rank."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill_ray.core.schedule import (
    Checkpoint,
    Decide,
    Figures,
    Rules,
    ScheduleState,
    Switch,
    TeacherCheckpoints,
)
from distill_ray.data.batches import Batch, BatchSource
from distill_ray.engine.backends.base import Backend
from distill_ray.engine.backends.optim import OptimSpec
from distill_ray.engine.job import OnSwitch
from distill_ray.engine.objective import Objective
from distill_ray.engine.teachers.base import Colocated, TeacherSource

MAX_HISTORY = 2000
"""Points of a training curve that are kept; a longer run keeps every k-th."""


@dataclass(frozen=True)
class MatchedLayers:
    """Teacher layers that the student's layers imitate."""

    source: Colocated
    layers: Callable[[str], Mapping[str, Sequence[int]]]
    """Teacher → kind of state → its layers."""


@dataclass
class Teaching:
    """The teachers of a run: which checkpoint serves, and the schedule that decides."""

    source: TeacherSource
    checkpoints: TeacherCheckpoints
    decide: Decide
    state: ScheduleState
    rules: Rules = field(default_factory=Rules)
    matched_layers: MatchedLayers | None = None
    members: tuple[str, ...] = ()
    """Members of the ensemble, in the order of a mixture's weights; empty without one."""
    step_tokens: dict[str, float] = field(default_factory=dict)
    """Teacher → its tokens of the last step."""
    best_loss: float | None = None
    """Validation loss of the best teacher; progress counts towards it."""
    losses: dict[Checkpoint, float] = field(default_factory=dict)
    """Validation loss of each measured checkpoint."""
    log: list[Switch] = field(default_factory=list)
    """Every change of teacher or checkpoint, and every assessment that changed nothing."""
    stalls: list[tuple[int, float]] = field(default_factory=list)
    """(step, seconds) of each wait for another checkpoint."""
    in_use: Checkpoint | None = None
    upcoming: Checkpoint | None = None
    """Checkpoint to prefetch once the current one serves."""

    @property
    def switches(self) -> list[Switch]:
        """Changes of teacher or checkpoint."""
        return [entry for entry in self.log if entry.changes]

    def switch_log(self) -> list[dict[str, Any]]:
        """Convert the log to plain rows.

        A row has `step`, `before`, `after`, `changes`, `reason`, `numbers` and `stall_s`. A
        checkpoint is written as its teacher and its number, counted from 1. `step` counts from 0,
        and is the first that sees the new checkpoint; `stall_s` is how long it waited for it, None
        where nothing changed.
        """
        stalls = dict(self.stalls)
        return [
            {
                "step": entry.step,
                "before": {"teacher": entry.from_teacher, "checkpoint": entry.from_checkpoint + 1},
                "after": {"teacher": entry.to_teacher, "checkpoint": entry.to_checkpoint + 1},
                "changes": entry.changes,
                "reason": entry.reason,
                "numbers": dict(entry.numbers),
                "stall_s": stalls.get(entry.step) if entry.changes else None,
            }
            for entry in self.log
        ]

    def count_tokens(self, tokens: int, member_tokens: Sequence[float]) -> None:
        """Count a step's tokens for the current teacher, or for each member of the ensemble.

        Args:
            tokens: number of supervised tokens.
            member_tokens: sums of each member's weights; values after the last member are ignored.
        """
        alone = {self.state.teacher: float(tokens)}
        self.step_tokens = dict(zip(self.members, member_tokens)) if self.members else alone

    def use_current(self, step: int | None = None) -> None:
        """Switch the source to the schedule's checkpoint.

        Args:
            step: the step that waits for the switch, if any.
        """
        started = time.monotonic()
        self.source.use(*self.state.checkpoint)
        changed = self.in_use not in (None, self.state.checkpoint)
        if changed and step is not None:
            self.stalls.append((step, time.monotonic() - started))
        self.in_use = self.state.checkpoint
        if self.upcoming is not None:
            self.source.expect(*self.upcoming)


@dataclass
class Validation:
    """Held-out batches, built for each measurement."""

    batches: Callable[..., Iterable[Batch]]
    """Makes the batches, of at most `limit` rows of each stream; None for all."""
    due: Callable[[int], bool]
    """Whether to measure after this many steps. One more measurement comes before step 0."""


@dataclass(frozen=True)
class Stopping:
    """Early stopping when the validation loss no longer falls (Prechelt 1998)."""

    ends: Sequence[int]
    """Steps after which a checkpoint is kept."""
    patience: int
    """Checkpoints in a row without a lower loss than the best before them."""

    def due(self, losses: Sequence[float]) -> bool:
        """Decide whether to stop, from the validation loss at every checkpoint so far."""
        if not losses:
            return False
        best = min(range(len(losses)), key=lambda i: losses[i])
        return len(losses) - 1 - best >= self.patience


@dataclass
class SkippedSteps:
    """Count of skipped steps, whose loss or gradient wasn't finite."""

    limit: int = 10
    """Number of skipped steps in a row that ends the run."""
    total: int = 0
    in_a_row: int = 0
    quarantine: Callable[[str, dict[str, Any]], None] | None = None
    """Writes a quarantined batch under a name."""


@dataclass(frozen=True)
class Measurement:
    """The answer to a schedule's `MeasurementRequest`."""

    figures: Figures
    progress: float | None = None
    """The student's progress, where it was measured along the way."""


@dataclass
class Session:
    """The state of a training run on one rank."""

    backend: Backend
    source: BatchSource
    num_micro: int
    objective: Objective
    optim: OptimSpec
    teaching: Teaching | None = None
    frozen_student: TeacherSource | None = None
    """Source of the frozen student's losses, which weight the samples."""
    validation: Validation | None = None
    stopping: Stopping | None = None
    """Early stopping; None trains to the end of the budget."""
    skipped: SkippedSteps = field(default_factory=SkippedSteps)
    step: int = 0
    """Number of finished steps."""
    initial_loss: float | None = None
    """Validation loss before step 0, from which progress counts."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The training curve: one entry a recorded step."""
    tokens_by_teacher: dict[str, float] = field(default_factory=dict)
    """Teacher → tokens that it has supervised so far."""
    on_switch: OnSwitch = field(default_factory=OnSwitch)
    measures: Mapping[str, Callable[..., Measurement]] = field(default_factory=dict)
    """Kind of `MeasurementRequest` → the function that measures it."""
    loaded: dict[int, list[Batch]] = field(default_factory=dict)
    """Step → its micro-batches, already announced to the teacher."""

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        switches = self.teaching.switches if self.teaching else []
        factor = self.on_switch.factor(self.step, switches)
        return factor * self.optim.learning_rate_at(self.step)

    def batches(self) -> list[Batch]:
        """Load the micro-batches of the next step; announce later ones to the teacher."""
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
