"""Schedules: functions that choose the teacher checkpoint for the next step.

A schedule takes (state, observation, checkpoints), and its options as keyword arguments. The engine
calls it before the first step and after every step. It returns a `Choice`, or a
`MeasurementRequest`; it is then called again with the measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from distill_ray.core.ranking import learnability
from distill_ray.core.schedule import (
    Checkpoint,
    Choice,
    Figures,
    MeasurementRequest,
    Observation,
    RankingWeights,
    ScheduleState,
    TeacherCheckpoints,
)

SOON = 0.05
"""A checkpoint is prefetched this share of the run's steps before a known switch."""


def fixed(
    state: ScheduleState, observation: Observation, checkpoints: TeacherCheckpoints
) -> Choice:
    """Use the best checkpoint for all steps."""
    why = "the best checkpoint serves throughout"
    return Choice(state.teacher, checkpoints.last(state.teacher), why)


def at_steps(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    *,
    steps: tuple[int, ...],
) -> Choice:
    """Move to the next checkpoint at each of `steps`, until the best one serves."""
    checkpoint_index = min(
        sum(observation.step >= step for step in steps), checkpoints.last(state.teacher)
    )
    later = [step for step in steps if step > observation.step]
    choice = Choice(state.teacher, checkpoint_index, f"step {observation.step} is on the list")
    return _reading_ahead(choice, observation, checkpoints, later[0] if later else None)


def equal_periods(
    state: ScheduleState, observation: Observation, checkpoints: TeacherCheckpoints
) -> Choice:
    """Use the checkpoints in order, each for an equal number of steps (RCO, arXiv 1904.09149)."""
    num_periods = checkpoints.num_checkpoints[state.teacher]
    checkpoint_index = _period(observation.step, num_periods, checkpoints)
    choice = Choice(
        state.teacher, checkpoint_index, f"period {checkpoint_index + 1} of {num_periods} begins"
    )
    return _reading_ahead(
        choice,
        observation,
        checkpoints,
        -(-(checkpoint_index + 1) * checkpoints.max_steps // num_periods),
    )


def on_plateau(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    *,
    window: int = 200,
    min_gain: float = 0.02,
) -> Choice:
    """Move to the next checkpoint when the training loss reaches a plateau.

    A plateau is a relative fall of the mean loss below `min_gain` between two windows.

    Args:
        state, observation, checkpoints: as for every schedule.
        window: steps of each of the two windows.
        min_gain: relative fall of the mean loss between them.
    """
    if observation.step == 0:
        return Choice(state.teacher, 0, "the first checkpoint begins")
    gain = _gain(state, window)
    if gain is None or state.checkpoint_index >= checkpoints.last(state.teacher):
        return Choice(state.teacher, state.checkpoint_index, "still gaining")
    above = state.teacher, state.checkpoint_index + 1
    if gain >= min_gain:
        ahead = above if gain < 2 * min_gain else None
        return Choice(state.teacher, state.checkpoint_index, "still gaining", upcoming=ahead)
    reason = f"gain over {window} steps was {gain:.2%}, under {min_gain:.2%}"
    return Choice(*above, reason, {"gain": gain, "min_gain": min_gain})


def scd(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    *,
    num_periods: int | None = None,
) -> Choice | MeasurementRequest:
    """At each period, argmin_k KL(p_T* ‖ p_k) + KL(p_S ‖ p_k) on held-out tokens (SCD).

    T* is the teacher's best checkpoint, S the student at this step, k any of the teacher's
    checkpoints. Ties go to the later one. Scheduled Checkpoint Distillation, arXiv 2601.10114.

    Args:
        state, observation, checkpoints: as for every schedule.
        num_periods: number of periods of equal length; by default one per checkpoint.
    """
    num_periods = num_periods or checkpoints.num_checkpoints[state.teacher]
    period = _period(observation.step, num_periods, checkpoints)
    known = state.memory if state.memory.get("teacher") == state.teacher else {}
    if known.get("period") == period:
        return Choice(state.teacher, state.checkpoint_index, "the period goes on")
    # The teacher's checkpoints don't change: their distances to its best are measured once.
    if "divergences" not in observation.measurements:
        missing = "best" not in known
        return MeasurementRequest(
            "divergences", checkpoints.of_teacher(state.teacher), {"to_best": missing}
        )
    distances = observation.measurements["divergences"]
    best = known.get("best") or [row["best"] for row in distances.values()]
    sums = [b + row["student"] for b, row in zip(best, distances.values())]
    checkpoint_index = min(range(len(sums)), key=lambda k: (sums[k], -k))
    return Choice(
        state.teacher,
        checkpoint_index,
        f"period {period + 1} of {num_periods}: checkpoint {checkpoint_index + 1} is closest to "
        f"the student and to the best one, {sums[checkpoint_index]:.4f} nats",
        {f"checkpoint {k + 1}": value for k, value in enumerate(sums)},
        memory={"teacher": state.teacher, "period": period, "best": best},
        assessed=True,
    )


def ranked(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    *,
    interval: float | None = 0.25,
    window: int = 100,
    min_gain: float = 0.02,
    probe_steps: int = 8,
    num_probe_rows: int = 16,
    margin: float = 0.02,
) -> Choice | MeasurementRequest:
    """Recompute the ranking from the student's progress and short probes, and follow it.

    It runs every `interval` steps, or at a plateau of the loss. Candidates are the current
    checkpoint, the next one, and each teacher's best. A single candidate is not measured. A
    candidate's learnability comes from its probe. Its other factors are its teacher's, scaled by
    how far the checkpoint is from the initial student to the teacher's best. The highest score
    serves if it leads by `margin`.

    Args:
        state, observation, checkpoints: as for every schedule; the checkpoints with their ranking.
        interval: steps between two assessments; below 1, a share of all steps; None waits for a
            plateau.
        window, min_gain: of a plateau, as in `on_plateau`.
        probe_steps: optimiser steps with each candidate.
        num_probe_rows: held-out rows of each stream on which a candidate's steps are measured.
        margin: lead in score that another checkpoint needs to take over.
    """
    if observation.step == 0:
        why = "the best checkpoint of the teacher that leads for an untrained student"
        return Choice(state.teacher, checkpoints.last(state.teacher), why)
    if checkpoints.ranking is None:
        raise ValueError("the schedule `ranked` needs the checkpoints' ranking")
    since = observation.step - int(state.memory.get("assessed", 0))
    if interval is None:
        gain = _gain(state, window)
        due = gain is not None and gain < min_gain and since >= window
    else:
        due = since >= interval_steps(interval, checkpoints.max_steps)
    following = min(state.checkpoint_index + 1, checkpoints.last(state.teacher))
    best_ones = [(name, checkpoints.last(name)) for name in checkpoints.num_checkpoints]
    candidates = dict.fromkeys([state.checkpoint, (state.teacher, following), *best_ones])
    if not due or len(candidates) < 2:
        return Choice(state.teacher, state.checkpoint_index, "not assessed")
    if "probes" not in observation.measurements:
        options = {"steps": probe_steps, "rows": num_probe_rows}
        return MeasurementRequest("probes", tuple(candidates), options)
    return _choose_by_score(state, observation, checkpoints.ranking, margin)


def interval_steps(interval: float, max_steps: int) -> float:
    """Give the steps between two assessments; an `interval` below 1 is a share of all steps."""
    return interval if interval >= 1 else max(1, round(interval * max_steps))


def _choose_by_score(
    state: ScheduleState, observation: Observation, ranking: RankingWeights, margin: float
) -> Choice:
    """Choose the best-scoring candidate if it leads by the margin; else keep the current one."""
    scores = candidate_scores(observation.measurements["probes"], ranking, state.progress)
    best = max(scores, key=lambda c: (scores[c], c == state.checkpoint))
    lead = scores[best] - scores[state.checkpoint]
    if lead < margin:
        best, comparison = state.checkpoint, "none leads it"
    else:
        comparison = f"leads by {lead:.3f}"
    return Choice(
        *best,
        f"reassessed at progress {state.progress:.2f}: {named(best)} {comparison}",
        {named(c): score for c, score in scores.items()},
        memory={"assessed": observation.step},
        assessed=True,
    )


def named(checkpoint: Checkpoint) -> str:
    """Format a checkpoint for reasons and logs, counted from 1."""
    teacher, checkpoint_index = checkpoint
    return f"{teacher} checkpoint {checkpoint_index + 1}"


def candidate_scores(
    probes: Figures, ranking: RankingWeights, progress: float
) -> dict[Checkpoint, float]:
    """Score every probed checkpoint.

    Args:
        probes: checkpoint → `moved`, the fall of KL(teacher ‖ student) in nats, and `closed`, the
            share of the gap from the initial student to the best teacher that it has closed
            itself; each teacher's best is among them.
        ranking: the factors that were measured beforehand.
        progress: the student's.
    """
    most = max(row["moved"] for row in probes.values())
    best = {
        t: max(row["closed"] for (owner, _), row in probes.items() if owner == t) for t, _ in probes
    }
    scores = {}
    for (teacher, checkpoint_index), row in probes.items():
        strength = row["closed"] / best[teacher] if best[teacher] > 0 else 1.0
        factors = {f: strength * value for f, value in ranking.factors[teacher].items()}
        if "learnability" in factors:
            factors["learnability"] = float(learnability(row["moved"], most))
        scores[teacher, checkpoint_index] = ranking.score(factors, progress)
    return scores


def _period(step: int, num_periods: int, checkpoints: TeacherCheckpoints) -> int:
    return min(step * num_periods // checkpoints.max_steps, num_periods - 1)


def _gain(state: ScheduleState, window: int) -> float | None:
    """Compute the relative fall of the mean loss between two windows; None before there are two."""
    if len(state.losses) < 2 * window:
        return None
    before = sum(state.losses[-2 * window : -window]) / window
    now = sum(state.losses[-window:]) / window
    return (before - now) / abs(before) if before else 0.0


def _reading_ahead(
    choice: Choice, observation: Observation, checkpoints: TeacherCheckpoints, step: int | None
) -> Choice:
    """Mark the next checkpoint for prefetching if its switch is near."""
    if (
        choice.checkpoint_index == checkpoints.last(choice.teacher)
        or step is None
        or step >= checkpoints.max_steps
    ):
        return choice
    if step - observation.step > max(1, round(SOON * checkpoints.max_steps)):
        return choice
    return replace(choice, upcoming=(choice.teacher, choice.checkpoint_index + 1))


SCHEDULES: dict[str, Callable[..., Choice | MeasurementRequest]] = {
    "fixed": fixed,
    "at_steps": at_steps,
    "equal_periods": equal_periods,
    "on_plateau": on_plateau,
    "scd": scd,
    "ranked": ranked,
}
