"""Trials → results: what the arms of a domain reached, and of all domains together. S seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import PLAIN, ScheduleStudy
from distill_ray.core.schedule import Checkpoint
from distill_ray.data.examples import Questions
from distill_ray.stages.results.model_scores import ModelScores
from distill_ray.stages.results.trial import Trial, TrialSchedule, TrialSwitch
from distill_ray.stages.scoring.metrics import right_and_nll
from distill_ray.study.common import Cost, TrialsByArm, complete_trials, failed_trials
from distill_ray.study.paired import (
    METRICS,
    ArmComparison,
    PairedAnswers,
    TeacherComparison,
    answers_of,
    compare_arms,
    compare_with_teacher,
)
from distill_ray.study.schedule.arms import CONTROL, Arm

BEST_STATIC, ORACLE = "best static", "oracle static"
"""The static choice that is best on the validation split, and the one that is best on the test
split, which nobody can know."""
STEPS = ((CONTROL, PLAIN), (PLAIN, "equal_periods"), ("equal_periods", "scd"), ("scd", "scd-aw"))
"""The published order, each arm at most as good as the next: plain KD < ordered checkpoints <= SCD
< SCD with adaptive weights (arXiv 2601.10114), after the gain from having a teacher."""


@dataclass(frozen=True)
class Metrics:
    """The mean over questions."""

    accuracy: float
    nll: float


@dataclass(frozen=True)
class SeedMetrics:
    """The mean over questions with each seed."""

    accuracy: list[float]
    nll: list[float]


@dataclass(frozen=True)
class Comparisons:
    """An arm against the arms and teachers that matter."""

    best_static: ArmComparison
    control: ArmComparison
    last_teacher: TeacherComparison
    most_accurate_teacher: TeacherComparison


@dataclass(frozen=True)
class ArmResult:
    """What an arm reached on a domain's test split."""

    settings: Mapping[str, object]
    static: Checkpoint | None
    """See `Arm.static`."""
    validation: Metrics
    accuracy: list[float]
    """The mean over tasks with each seed."""
    nll: list[float]
    tasks: Mapping[str, SeedMetrics]
    against: Comparisons
    served: Sequence[TrialSchedule]
    """The schedule's last state with each seed."""
    first_teacher: str | None
    steps: int
    probe_steps: float
    """Mean over seeds of the steps that assessments took beside the budget."""
    training_s: float
    skipped_steps: int


@dataclass(frozen=True)
class Failure:
    """A trial that failed."""

    arm: str
    seed: int
    reason: str


@dataclass(frozen=True)
class ScheduleCost(Cost):
    """A domain's cost, and the token budget of each of its arms."""

    tokens: int


@dataclass(frozen=True)
class ScheduleDomain:
    """A domain's arms, by what they reached."""

    most_accurate: str
    """The most accurate teacher on the validation split."""
    best_static: str
    """The arm that is the best static choice."""
    oracle: str
    """The arm that is the oracle's static choice."""
    questions: Mapping[str, int]
    """Task → number of test questions."""
    teachers: Mapping[str, Metrics]
    arms: Mapping[str, ArmResult]
    failed: Sequence[Failure]
    cost: ScheduleCost


@dataclass(frozen=True)
class DomainResult:
    """A domain's row, and the answers behind it."""

    row: ScheduleDomain
    tasks: list[PairedAnswers]


def compared(
    cfg: ScheduleStudy,
    domain: str,
    arms: Mapping[str, Arm],
    trials: TrialsByArm,
    teachers: Mapping[str, ModelScores],
    questions: Sequence[Questions],
    best_teacher: str,
    cost: ScheduleCost,
) -> DomainResult:
    """Compare a domain's arms whose trials are complete with every seed.

    Raises:
        InputError: the control is missing, or every static choice.
    """
    complete = complete_trials(trials, cfg.seeds)
    statics = [name for name in complete if arms[name].static is not None]
    missing = [] if CONTROL in complete else ["the control"]
    missing += [] if statics else ["every static choice"]
    if missing:
        what = f"{' and '.join(missing)} failed with some seed."
        fix = "See why, and retry with --retry-failed."
        raise InputError("too few arms to compare:", [Problem("arms", what, fix)])
    validation = {}
    for name, by_seed in complete.items():
        outcomes = [trial.outcome() for trial in by_seed]
        means = (fmean(getattr(each, metric) for each in outcomes) for metric in METRICS)
        validation[name] = Metrics(*means)
    # Of equal accuracy, the lower NLL decides.
    best = max(statics, key=lambda n: (validation[n].accuracy, -validation[n].nll))
    tasks = _paired_answers(cfg, domain, complete, teachers, questions, best_teacher)
    accuracy = {n: fmean(float(t.arms[n]["accuracy"].mean()) for t in tasks) for n in statics}
    oracle = max(statics, key=lambda n: accuracy[n])
    for task in tasks:
        for role, name in ((BEST_STATIC, best), (ORACLE, oracle)):
            task.arms[role], task.last_teachers[role] = task.arms[name], task.last_teachers[name]
    row = ScheduleDomain(
        most_accurate=best_teacher,
        best_static=best,
        oracle=oracle,
        questions={q.name: len(q.answer_index) for q in questions},
        teachers={
            name: Metrics(
                *(
                    fmean(float(t.teachers[name][metric].mean()) for t in tasks)
                    for metric in METRICS
                )
            )
            for name in teachers
        },
        arms={
            name: _arm_result(arms[name], by_seed, validation[name], tasks, questions)
            for name, by_seed in complete.items()
        },
        failed=[Failure(*each) for each in failed_trials(trials)],
        cost=cost,
    )
    return DomainResult(row, tasks)


def _paired_answers(
    cfg: ScheduleStudy,
    domain: str,
    trials: Mapping[str, Sequence[Trial]],
    teachers: Mapping[str, ModelScores],
    questions: Sequence[Questions],
    best_teacher: str,
) -> list[PairedAnswers]:
    last_teachers: dict[str, Sequence[str]] = {
        arm: [schedule_of(trial).teacher for trial in by_seed]
        for arm, by_seed in trials.items()
        if arm != CONTROL
    }
    # No teacher served the control; the most accurate one takes its place.
    last_teachers[CONTROL] = [best_teacher] * len(trials[CONTROL])
    return [
        PairedAnswers(
            **vars(answers_of(cfg, domain, task, trials)),
            teachers={
                name: dict(zip(METRICS, right_and_nll(scores, task.name)))
                for name, scores in teachers.items()
            },
            last_teachers={**last_teachers},
            most_accurate=best_teacher,
        )
        for task in questions
    ]


def _arm_result(
    arm: Arm,
    trials: Sequence[Trial],
    validation: Metrics,
    tasks: Sequence[PairedAnswers],
    questions: Sequence[Questions],
) -> ArmResult:
    served = [] if arm.teaching is None else [schedule_of(trial) for trial in trials]
    accuracy, nll = (
        np.stack([task.by_seed(arm.name, metric) for task in tasks]) for metric in METRICS
    )  # [tasks, S]
    counts = [trial.artifact.manifest().counts for trial in trials]
    steps = int(counts[0]["steps"])
    return ArmResult(
        settings=arm.settings(),
        static=arm.static,
        validation=validation,
        accuracy=accuracy.mean(axis=0).tolist(),
        nll=nll.mean(axis=0).tolist(),
        tasks={
            q.name: SeedMetrics(accuracy[i].tolist(), nll[i].tolist())
            for i, q in enumerate(questions)
        },
        against=_comparisons(tasks, arm.name),
        served=served,
        first_teacher=None if arm.teaching is None else arm.teaching.first_teacher,
        steps=steps,
        probe_steps=fmean(probe_steps(arm, each.log, steps) for each in served) if served else 0.0,
        training_s=fmean(count["training_s"] for count in counts),
        skipped_steps=sum(count["skipped_steps"] for count in counts),
    )


def schedule_of(trial: Trial) -> TrialSchedule:
    """Who taught in a trial that had a teacher."""
    schedule = trial.outcome().schedule
    assert schedule is not None
    return schedule


def _comparisons(tasks: Sequence[PairedAnswers], arm: str) -> Comparisons:
    return Comparisons(
        best_static=compare_arms(tasks, arm, BEST_STATIC),
        control=compare_arms(tasks, arm, CONTROL),
        last_teacher=compare_with_teacher(tasks, arm, "last"),
        most_accurate_teacher=compare_with_teacher(tasks, arm, "most_accurate"),
    )


def probe_steps(arm: Arm, log: Sequence[TrialSwitch], steps: int) -> int:
    """Optimiser steps that assessments took beside the budget; they were undone.

    Args:
        arm: its schedule.
        log: the schedule's log in one trial.
        steps: steps of the budget.
    """
    if arm.teaching is None or "probe_steps" not in arm.teaching.options:
        return 0
    each = int(arm.teaching.options["probe_steps"])
    # An assessment's numbers are its candidates' scores.
    return sum(len(entry.numbers) * min(each, steps - entry.step) for entry in log)


@dataclass(frozen=True)
class OverallArm:
    """An arm over all tasks of some domains."""

    accuracy: float
    nll: float
    against: Comparisons
    training_share: float | None = None
    """Training time as a share of the plain arm's; None for the roles of static choices."""
    probe_share: float | None = None
    """Steps of assessments as a share of the budget."""


@dataclass(frozen=True)
class PublishedStep(ArmComparison):
    """A step of the published order: the later arm minus the earlier one."""

    from_arm: str
    to_arm: str


@dataclass(frozen=True)
class ScheduleSummary:
    """The arms over all tasks of some domains."""

    arms: Mapping[str, OverallArm]
    steps: Sequence[PublishedStep]
    tasks: int


def overall_of(domains: Sequence[DomainResult]) -> ScheduleSummary:
    """Summarise the arms that all of some domains have."""
    tasks = [task for domain in domains for task in domain.tasks]
    rows = [domain.row.arms for domain in domains]
    shared = [n for n, arm in rows[0].items() if not arm.static and all(n in r for r in rows)]
    arms = {}
    for name in (*shared, BEST_STATIC, ORACLE):
        training_share = probe_share = None
        if name in shared:
            plain_s = [row.get(PLAIN, row[name]).training_s for row in rows]
            training_share = fmean(row[name].training_s / s for row, s in zip(rows, plain_s))
            probe_share = fmean(row[name].probe_steps / row[name].steps for row in rows)
        accuracy, nll = (
            fmean(float(task.arms[name][metric].mean()) for task in tasks) for metric in METRICS
        )
        against = _comparisons(tasks, name)
        arms[name] = OverallArm(accuracy, nll, against, training_share, probe_share)
    steps = [
        PublishedStep(**vars(compare_arms(tasks, later, earlier)), from_arm=earlier, to_arm=later)
        for earlier, later in STEPS
        if earlier in arms and later in arms
    ]
    return ScheduleSummary(arms, steps, len(tasks))
