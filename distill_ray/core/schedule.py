"""Which teacher checkpoint to imitate now: a pure state machine, (state, numbers) → state.

A teacher's checkpoints are listed in order of training; an index names one of them. What
decides is one of `core.schedules`. Nothing here draws a random number or reads a clock, so that a
restored run takes the same decisions. Ordered checkpoints: RCO (arXiv 1904.09149), SCD (arXiv
2601.10114).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from distill_ray.core.ranking import weighted_score

Checkpoint = tuple[str, int]
"""A teacher and one of its checkpoints, counted from 0."""
Figures = Mapping[Checkpoint, Mapping[str, float]]
"""Checkpoint → what was measured of it."""
LONGEST = 2000
"""Losses that a state keeps: two windows of 1000 steps."""


@dataclass(frozen=True)
class RankingWeights:
    """The ranking's factors, and how much each counts at both ends of training."""

    factors: Mapping[str, Mapping[str, float]]
    """Teacher → factor → score in [0, 1]."""
    early: Mapping[str, float]
    """Factor → weight at progress 0; weights sum to 1."""
    late: Mapping[str, float]
    """Factor → weight at progress 1."""

    def score(self, factors: Mapping[str, float], progress: float) -> float:
        """Weigh and sum some factors at this progress."""
        return weighted_score(factors, self.early, self.late, progress)

    def scores(self, progress: float) -> dict[str, float]:
        """Score every teacher at this progress."""
        return {teacher: self.score(row, progress) for teacher, row in self.factors.items()}


@dataclass(frozen=True)
class TeacherCheckpoints:
    """The teachers' checkpoints to choose from, and their ranking if there is one."""

    num_checkpoints: Mapping[str, int]
    """Teacher → checkpoints that may serve; the last is the teacher's best."""
    max_steps: int
    """Steps of the whole run."""
    ranking: RankingWeights | None = None

    def last(self, teacher: str) -> int:
        """The teacher's best checkpoint."""
        return self.num_checkpoints[teacher] - 1

    def of_teacher(self, teacher: str) -> tuple[Checkpoint, ...]:
        """All of a teacher's checkpoints, in order."""
        return tuple(
            (teacher, checkpoint_index) for checkpoint_index in range(self.num_checkpoints[teacher])
        )


@dataclass(frozen=True)
class Observation:
    """What a step measured, averaged over all ranks."""

    step: int
    """Number of finished steps. The schedule decides for step `step`, counted from 0."""
    loss: float
    """Training loss of the last step; NaN before the first one."""
    progress: float | None = None
    """The student's progress in [0, 1], if it was just measured."""
    measurements: Mapping[str, Figures] = field(default_factory=dict)
    """Kind of a `MeasurementRequest` of this step → its figures."""


@dataclass(frozen=True)
class Choice:
    """The checkpoint that should serve now."""

    teacher: str
    checkpoint_index: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The figures behind the reason."""
    memory: Mapping[str, Any] | None = None
    """New value of the state's `memory`; None keeps the old one."""
    upcoming: Checkpoint | None = None
    """The checkpoint that probably serves next: worth prefetching."""
    assessed: bool = False
    """Whether to log the decision even if the checkpoint stays the same."""


@dataclass(frozen=True)
class MeasurementRequest:
    """What a schedule needs measured before it can choose. It is then called again."""

    kind: str
    """`divergences` or `probes`."""
    checkpoints: tuple[Checkpoint, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Switch:
    """A change of teacher or checkpoint, or an assessment that changed nothing."""

    step: int
    """The first step that sees the new one."""
    from_teacher: str
    from_checkpoint: int
    to_teacher: str
    to_checkpoint: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The figures behind the reason."""

    @property
    def changes(self) -> bool:
        """Whether another checkpoint serves afterwards."""
        return (self.from_teacher, self.from_checkpoint) != (self.to_teacher, self.to_checkpoint)


@dataclass(frozen=True)
class ScheduleState:
    """All that a schedule remembers; saved in every checkpoint."""

    teacher: str
    checkpoint_index: int
    losses: tuple[float, ...] = ()
    """Losses since the last switch, at most `LONGEST` of them."""
    progress: float = 0.0
    """The student's progress, smoothed."""
    reassessed: int = 0
    """Number of `Reassessment.at_progress` thresholds that were passed."""
    begun: bool = False
    """Whether the schedule has chosen a checkpoint for the first step."""
    memory: Mapping[str, Any] = field(default_factory=dict)
    """The schedule's own notes, as plain values."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint that serves."""
        return self.teacher, self.checkpoint_index

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a saved checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScheduleState:
        """Read what `to_dict` returned."""
        return cls(**{**values, "losses": tuple(values["losses"])})


Decide = Callable[[ScheduleState, Observation, TeacherCheckpoints], Choice | MeasurementRequest]


@dataclass(frozen=True)
class Reassessment:
    """When to recompute the ranking, and by how much another teacher must lead to take over."""

    at_progress: tuple[float, ...] = ()
    margin: float = 0.0


@dataclass(frozen=True)
class Smoothing:
    """How measured progress is smoothed before schedules see it."""

    share: float = 0.0
    """Weight of the previous value; 0 takes the last measurement alone."""
    monotone: bool = True
    """Whether progress may only rise."""

    def next(self, before: float, measurement: float) -> float:
        """Combine the previous progress with one more measurement."""
        smoothed = self.share * before + (1 - self.share) * measurement
        return max(before, smoothed) if self.monotone else smoothed


@dataclass(frozen=True)
class Rules:
    """Settings that apply to every schedule."""

    reassessment: Reassessment | None = None
    """Changes the teacher; needs the checkpoints' ranking."""
    smoothing: Smoothing = field(default_factory=Smoothing)


@dataclass(frozen=True)
class Transition:
    """The outcome of `advance`."""

    state: ScheduleState
    """The state for the next step."""
    switch: Switch | None = None
    upcoming: Checkpoint | None = None


def advance(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    decide: Decide,
    rules: Rules | None = None,
) -> Transition | MeasurementRequest:
    """Compute the state for the next step, or return what must be measured first.

    A reassessment comes before the schedule: if it changes the teacher, the schedule chooses the
    new teacher's checkpoint. Call again with the requested measurements in `observation`; the
    function is pure, so the first call left no trace.
    """
    before, rules = state, rules or Rules()
    # A skipped step has no finite loss.
    if math.isfinite(observation.loss):
        state = replace(state, losses=(*state.losses, observation.loss)[-LONGEST:])
    reason, numbers = "", dict[str, float]()
    if observation.progress is not None:
        state = replace(state, progress=rules.smoothing.next(state.progress, observation.progress))
        if rules.reassessment is not None:
            state, reason, numbers = _reassess(state, checkpoints, rules.reassessment)
    choice = decide(state, observation, checkpoints)
    if isinstance(choice, MeasurementRequest):
        return choice
    checkpoint_index = min(choice.checkpoint_index, checkpoints.last(choice.teacher))
    memory = state.memory if choice.memory is None else choice.memory
    state = replace(
        state, teacher=choice.teacher, checkpoint_index=checkpoint_index, begun=True, memory=memory
    )
    upcoming = None if choice.upcoming == state.checkpoint else choice.upcoming
    switch = Switch(
        observation.step,
        *before.checkpoint,
        *state.checkpoint,
        reason or choice.reason,
        numbers or choice.numbers,
    )
    if switch.changes:
        return Transition(replace(state, losses=()), switch, upcoming)
    return Transition(state, switch if choice.assessed else None, upcoming)


def begin(teacher: str, checkpoints: TeacherCheckpoints, decide: Decide) -> ScheduleState:
    """Choose the first checkpoint. If that needs a measurement, the state has not `begun`."""
    start = ScheduleState(teacher, checkpoints.last(teacher))
    outcome = advance(start, Observation(0, math.nan), checkpoints, decide)
    return start if isinstance(outcome, MeasurementRequest) else outcome.state


def static_plan(
    state: ScheduleState, checkpoints: TeacherCheckpoints, decide: Decide
) -> list[Checkpoint]:
    """List the checkpoint of every step, without running any.

    Valid for schedules that read step numbers alone, in runs without reassessment.

    Raises:
        ValueError: the schedule measures.
    """
    plan = [state.checkpoint]
    for step in range(1, checkpoints.max_steps):
        outcome = advance(state, Observation(step, math.nan), checkpoints, decide)
        if isinstance(outcome, MeasurementRequest):
            raise ValueError(f"a schedule that measures {outcome.kind} has no static plan")
        state = outcome.state
        plan.append(state.checkpoint)
    return plan


def _reassess(
    state: ScheduleState, checkpoints: TeacherCheckpoints, rule: Reassessment
) -> tuple[ScheduleState, str, dict[str, float]]:
    passed = sum(state.progress >= threshold for threshold in rule.at_progress)
    if passed <= state.reassessed:
        return state, "", {}
    if checkpoints.ranking is None:
        raise ValueError("a reassessment needs the checkpoints' ranking")
    state = replace(state, reassessed=passed)
    scores = checkpoints.ranking.scores(state.progress)
    best = max(scores, key=lambda teacher: scores[teacher])
    lead = scores[best] - scores[state.teacher]
    if best == state.teacher or lead < rule.margin:
        return state, "", {}
    reason = (
        f"reassessed at progress {state.progress:.2f}: {best} scores {scores[best]:.3f}, "
        f"{state.teacher} {scores[state.teacher]:.3f}"
    )
    # The losses were measured against another teacher: a plateau in them says nothing here.
    return replace(state, teacher=best, losses=()), reason, scores


def progress(student: float, initial: float, best_teacher: float) -> float:
    """Compute the share of the initial loss gap to the best teacher that is closed, in [0, 1].

    Args:
        student: the student's validation loss now, nats per token.
        initial: the student's validation loss before training.
        best_teacher: the best teacher's validation loss.
    """
    gap = initial - best_teacher
    if gap <= 0:
        return 1.0
    return min(1.0, max(0.0, (initial - student) / gap))
