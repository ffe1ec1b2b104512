"""The schedules: functions from what a run has seen to the checkpoint that should teach it.

Each is asked before the first step and after every step. One that must know more returns a
`MeasurementRequest` and is asked again with the answer. Its options are keyword arguments.
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
"""Share of a run's steps before a known switch at which its checkpoint is worth reading."""


def fixed(
    state: ScheduleState, observation: Observation, checkpoints: TeacherCheckpoints
) -> Choice:
    """The best checkpoint, always."""
    why = "the best checkpoint serves throughout"
    return Choice(state.teacher, checkpoints.last(state.teacher), why)


def at_steps(
    state: ScheduleState,
    observation: Observation,
    checkpoints: TeacherCheckpoints,
    *,
    steps: tuple[int, ...],
) -> Choice:
    """One checkpoint up at each of `steps`, the best one at most."""
    checkpoint_index = min(
        sum(observation.step >= step for step in steps), checkpoints.last(state.teacher)
    )
    later = [step for step in steps if step > observation.step]
    choice = Choice(state.teacher, checkpoint_index, f"step {observation.step} is on the list")
    return _reading_ahead(choice, observation, checkpoints, later[0] if later else None)


def equal_periods(
    state: ScheduleState, observation: Observation, checkpoints: TeacherCheckpoints
) -> Choice:
    """The checkpoints in order, each for an equal share of the steps (RCO's equal intervals)."""
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
    """One checkpoint up when the mean loss fell by less than `min_gain` between two windows."""
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
    """At each stage, argmin_k KL(p_T* ‖ p_k) + KL(p_S ‖ p_k) on held-out tokens (SCD).

    T* is the teacher's best checkpoint, S the student as it is, k any checkpoint of the teacher. Of
    equal ones the later serves. Scheduled Checkpoint Distillation, arXiv 2601.10114.

    Args:
        state, observation, checkpoints: as for every schedule.
        num_periods: of equal length; as many as the teacher has checkpoints, when left out.
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
            "divergences", checkpoints.of(state.teacher), {"to_best": missing}
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
    """The ranking anew, with the student's progress and short probes from the student as it is.

    Asked every `interval` steps, or where the loss has stopped falling. Candidates are the
    checkpoint that serves, the next one, and each teacher's best; nothing is measured of a single
    one. Of a candidate's factors, learnability comes from its probe; the others are its
    teacher's, times the share of its teacher's way from the initial student that it has gone
    itself. The best score serves if it leads by `margin`.

    Args:
        state, observation, checkpoints: as for every schedule; the checkpoints with their ranking.
        interval: steps between two assessments, below 1 a share of all; none waits for a plateau.
        window, min_gain: of a plateau, as in `on_plateau`.
        probe_steps: optimiser steps with each candidate.
        num_probe_rows: held-out rows of each stream on which a candidate's steps are measured.
        margin: by which another must lead the current one's score.
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
    candidates = _candidates(state, checkpoints) if due else ()
    if len(candidates) < 2:
        return Choice(state.teacher, state.checkpoint_index, "not assessed")
    if "probes" not in observation.measurements:
        return MeasurementRequest(
            "probes", candidates, {"steps": probe_steps, "rows": num_probe_rows}
        )
    return _assessed(state, observation, checkpoints.ranking, margin)


def interval_steps(interval: float, max_steps: int) -> float:
    """Steps between two assessments; below 1, `interval` is a share of all."""
    return interval if interval >= 1 else max(1, round(interval * max_steps))


def _assessed(
    state: ScheduleState, observation: Observation, ranking: RankingWeights, margin: float
) -> Choice:
    """What the probes say, if it leads by the margin; else what serves."""
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
    """As a reader sees it."""
    teacher, checkpoint_index = checkpoint
    return f"{teacher} checkpoint {checkpoint_index + 1}"


def candidate_scores(
    probes: Figures, ranking: RankingWeights, progress: float
) -> dict[Checkpoint, float]:
    """Score of every checkpoint that was probed.

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
        factors |= (
            {"learnability": float(learnability(row["moved"], most))}
            if "learnability" in factors
            else {}
        )
        scores[teacher, checkpoint_index] = ranking.score(factors, progress)
    return scores


def _candidates(state: ScheduleState, checkpoints: TeacherCheckpoints) -> tuple[Checkpoint, ...]:
    last = checkpoints.last(state.teacher)
    own = [state.checkpoint, (state.teacher, min(state.checkpoint_index + 1, last))]
    return tuple(
        dict.fromkeys(
            [*own, *((name, checkpoints.last(name)) for name in checkpoints.num_checkpoints)]
        )
    )


def _period(step: int, num_periods: int, checkpoints: TeacherCheckpoints) -> int:
    return min(step * num_periods // checkpoints.max_steps, num_periods - 1)


def _gain(state: ScheduleState, window: int) -> float | None:
    """Relative fall of the mean loss from one window to the next; none before there are two."""
    if len(state.losses) < 2 * window:
        return None
    before = sum(state.losses[-2 * window : -window]) / window
    now = sum(state.losses[-window:]) / window
    return (before - now) / abs(before) if before else 0.0


def _reading_ahead(
    choice: Choice, observation: Observation, checkpoints: TeacherCheckpoints, step: int | None
) -> Choice:
    """With the next checkpoint as what comes soon, where it does."""
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
