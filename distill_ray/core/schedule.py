"""Which teacher checkpoint to imitate now: pure state machines, (state, numbers) → state.

A ladder is the list of a teacher's checkpoints in order of training; a rung is one of them. A
schedule moves along the current teacher's ladder; a reassessment may change the teacher. Nothing
here draws a random number or reads a clock, so that a restored run takes the same decisions.
Ordered checkpoints: RCO (arXiv 1904.09149), SCD (arXiv 2601.10114).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from distill_ray.core.ranking import stage_score


@dataclass(frozen=True)
class Ladders:
    """What there is to choose from."""

    num_rungs: Mapping[str, int]
    """Teacher → rungs that may serve, counted from 0; the last is the teacher's best."""
    max_steps: int
    """Steps of the whole run."""

    def last(self, teacher: str) -> int:
        """The teacher's best rung."""
        return self.num_rungs[teacher] - 1


@dataclass(frozen=True)
class Observation:
    """What a step measured, averaged over all ranks."""

    step: int
    """Steps done so far; the decision is for step `step`, counted from 0."""
    loss: float
    """Training loss of the step that was just done."""
    progress: float | None = None
    """Share of the gap to the best teacher that is closed, when it was just measured."""


@dataclass(frozen=True)
class Switch:
    """One change of teacher or checkpoint."""

    step: int
    """The first step that sees the new one."""
    from_teacher: str
    from_rung: int
    to_teacher: str
    to_rung: int
    reason: str


@dataclass(frozen=True)
class ScheduleState:
    """All that a schedule remembers; saved in every checkpoint."""

    teacher: str
    rung: int
    losses: tuple[float, ...] = ()
    """Losses since then, at most the two windows that `on_plateau` compares."""
    progress: float = 0.0
    """The furthest progress seen; noise never takes it back."""
    reassessed: int = 0
    """How many of the thresholds of progress are behind us."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ScheduleState:
        """The state that `to_dict` wrote."""
        return cls(**{**values, "losses": tuple(values["losses"])})


Decision = tuple[int, str]
"""The rung that should serve now, and why."""


def fixed(state: ScheduleState, seen: Observation, ladders: Ladders) -> Decision:
    """The best rung, always."""
    return ladders.last(state.teacher), "the best checkpoint serves throughout"


def at_steps(
    state: ScheduleState, seen: Observation, ladders: Ladders, *, steps: tuple[int, ...]
) -> Decision:
    """One rung up at each of `steps`, the best one at most."""
    rung = sum(seen.step >= step for step in steps)
    return min(rung, ladders.last(state.teacher)), f"step {seen.step} is on the list"


def equal_stages(state: ScheduleState, seen: Observation, ladders: Ladders) -> Decision:
    """The rungs in order, each for an equal share of the steps."""
    rungs = ladders.num_rungs[state.teacher]
    rung = min(seen.step * rungs // ladders.max_steps, rungs - 1)
    return rung, f"stage {rung + 1} of {rungs} begins"


def on_plateau(
    state: ScheduleState,
    seen: Observation,
    ladders: Ladders,
    *,
    window: int = 200,
    min_gain: float = 0.02,
) -> Decision:
    """One rung up when the mean loss fell by less than `min_gain` between two windows."""
    if state.rung >= ladders.last(state.teacher) or len(state.losses) < 2 * window:
        return state.rung, "still gaining"
    before = sum(state.losses[-2 * window : -window]) / window
    now = sum(state.losses[-window:]) / window
    gain = (before - now) / abs(before) if before else 0.0
    if gain >= min_gain:
        return state.rung, "still gaining"
    return state.rung + 1, f"gain over {window} steps was {gain:.2%}, under {min_gain:.2%}"


SCHEDULES: dict[str, Callable[..., Decision]] = {
    "fixed": fixed,
    "at_steps": at_steps,
    "equal_stages": equal_stages,
    "on_plateau": on_plateau,
}


@dataclass(frozen=True)
class Reassessment:
    """When the ranking is computed anew, and from what."""

    factors: Mapping[str, Mapping[str, float]]
    """Teacher → factor → score in [0, 1]."""
    early: Mapping[str, float]
    """Factor → weight at progress 0; weights sum to 1."""
    late: Mapping[str, float]
    """Factor → weight at progress 1."""
    at_progress: tuple[float, ...] = (0.5,)
    margin: float = 0.0

    def scores(self, progress: float) -> dict[str, float]:
        """Every teacher's score at this progress."""
        return {
            teacher: stage_score(values, self.early, self.late, progress)
            for teacher, values in self.factors.items()
        }


def advance(
    state: ScheduleState,
    seen: Observation,
    ladders: Ladders,
    decide: Callable[[ScheduleState, Observation, Ladders], Decision],
    reassessment: Reassessment | None = None,
) -> tuple[ScheduleState, Switch | None]:
    """The state for the next step, and the switch that leads there, if there is one.

    A reassessment that changes the teacher comes first: the new teacher is entered at the rung
    that the schedule gives for it.
    """
    # A step that was set aside has no loss. Two windows of 1000 steps are the longest there are.
    if math.isfinite(seen.loss):
        state = replace(state, losses=(*state.losses, seen.loss)[-2000:])
    reason = ""
    before = state
    if seen.progress is not None:
        state = replace(state, progress=max(state.progress, seen.progress))
        if reassessment is not None:
            state, reason = _reassess(state, reassessment)
    rung, why = decide(state, seen, ladders)
    state = replace(state, rung=min(rung, ladders.last(state.teacher)))
    if (state.teacher, state.rung) == (before.teacher, before.rung):
        return state, None
    switch = Switch(
        seen.step, before.teacher, before.rung, state.teacher, state.rung, reason or why
    )
    return replace(state, losses=()), switch


def timetable(
    state: ScheduleState,
    ladders: Ladders,
    decide: Callable[[ScheduleState, Observation, Ladders], Decision],
) -> list[tuple[str, int]]:
    """[steps] the teacher and rung of each step, before there is any loss or progress.

    What a run without reassessment will take, if its schedule reads nothing but step numbers.
    """
    found = [(state.teacher, state.rung)]
    for step in range(1, ladders.max_steps):
        state, _ = advance(state, Observation(step, math.nan), ladders, decide)
        found.append((state.teacher, state.rung))
    return found


def _reassess(state: ScheduleState, reassessment: Reassessment) -> tuple[ScheduleState, str]:
    passed = sum(state.progress >= threshold for threshold in reassessment.at_progress)
    if passed <= state.reassessed:
        return state, ""
    state = replace(state, reassessed=passed)
    scores = reassessment.scores(state.progress)
    best = max(scores, key=lambda teacher: scores[teacher])
    lead = scores[best] - scores[state.teacher]
    if best == state.teacher or lead < reassessment.margin:
        return state, ""
    reason = (
        f"reassessed at progress {state.progress:.2f}: {best} scores {scores[best]:.3f}, "
        f"{state.teacher} {scores[state.teacher]:.3f}"
    )
    # The losses were measured against another teacher: a plateau in them says nothing here.
    return replace(state, teacher=best, losses=()), reason


def progress(student: float, initial: float, best_teacher: float) -> float:
    """Share of the initial validation gap to the best teacher that is closed, in [0, 1].

    Args:
        student: the student's validation loss now, nats per token.
        initial: the same before training.
        best_teacher: the best teacher's.
    """
    gap = initial - best_teacher
    if gap <= 0:
        return 1.0
    return min(1.0, max(0.0, (initial - student) / gap))
