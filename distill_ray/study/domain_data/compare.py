"""Trials → results: students by the text they read and the teacher. S seeds, n questions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import DomainDataStudy
from distill_ray.data.examples import Questions
from distill_ray.stages.results.trial import TrialOutcome
from distill_ray.study.common import Cost, TrialsByArm, complete_trials, failed_trials
from distill_ray.study.paired import METRICS, Answers, Difference, answers_of, difference_of

FINE_TUNED_ONLY = "fine-tuned only"
FINDINGS = {"better": "shown", "worse": "contradicted"}
"""Verdict → what it means for a claim; any other verdict means `not shown`."""


@dataclass(frozen=True)
class Arm:
    """What a student reads before its fine-tune, and from which teacher."""

    name: str
    text: str | None = None
    """The study's text arm; None reads nothing."""
    teacher: str | None = None
    """None reads without a teacher."""


def arms_of(cfg: DomainDataStudy) -> list[Arm]:
    """Every text with both teachers; to compare with, the last text without a teacher, and the
    fine-tune alone."""
    last = [*cfg.mixes][-1]
    taught = [Arm(f"{t}-{text}", text, t) for t in (cfg.raw, cfg.adapted) for text in cfg.mixes]
    return [*taught, Arm(f"untaught-{last}", last), Arm("unread")]


@dataclass(frozen=True)
class Contrast:
    """Some students minus other students."""

    name: str
    weights: Mapping[str, float]
    """Arm → its weight; the weights sum to 0."""
    claim: bool = False
    """Whether the papers claim that it is above 0."""


def contrasts_of(cfg: DomainDataStudy) -> Iterator[Contrast]:
    """The claims, each over both teachers or all texts, then their parts."""
    teachers, texts = (cfg.raw, cfg.adapted), [*cfg.mixes]

    def minus(plus: Sequence[str], baseline: Sequence[str]) -> dict[str, float]:
        positive = {arm: 1 / len(plus) for arm in plus}
        return {**positive, **{arm: -1 / len(baseline) for arm in baseline}}

    for before, after in pairwise(texts):
        arms = [[f"{teacher}-{text}" for teacher in teachers] for text in (after, before)]
        yield Contrast(f"{after} over {before}", minus(*arms), claim=True)
    arms = [[f"{teacher}-{text}" for text in texts] for teacher in reversed(teachers)]
    yield Contrast(f"{cfg.adapted} over {cfg.raw}", minus(*arms), claim=True)
    for teacher in teachers:
        for before, after in pairwise(texts):
            weights = minus([f"{teacher}-{after}"], [f"{teacher}-{before}"])
            yield Contrast(f"{after} over {before}, {teacher} teacher", weights)
    for text in texts:
        weights = minus([f"{cfg.adapted}-{text}"], [f"{cfg.raw}-{text}"])
        yield Contrast(f"{cfg.adapted} over {cfg.raw}, on {text}", weights)
    best = f"{cfg.adapted}-{texts[-1]}"
    yield Contrast(f"{best} over no teacher", minus([best], [f"untaught-{texts[-1]}"]))
    yield Contrast(f"{best} over {FINE_TUNED_ONLY}", minus([best], ["unread"]))


@dataclass(frozen=True)
class SeededDifference(Difference):
    """A paired difference with its interval, and its value with each seed, which shows the
    uncertainty from the seeds."""

    seeds: list[float]


@dataclass(frozen=True)
class ContrastResult:
    """A contrast, the mean over tasks."""

    name: str
    claim: bool
    accuracy: SeededDifference
    nll: SeededDifference
    finding: str | None
    """Of a claim: `shown`, `not shown` or `contradicted`."""


@dataclass(frozen=True)
class OverallContrast(ContrastResult):
    """A contrast over all tasks of some domains."""

    means: int
    """Tasks on which the mean difference in accuracy is above 0."""
    tasks: int


@dataclass(frozen=True)
class StudentResult:
    """The students of an arm, a value for each seed."""

    text: str | None
    teacher: str | None
    accuracy: list[float]
    nll: list[float]
    before: list[float]
    """Accuracy on the validation split before the fine-tune."""
    read: Mapping[str, Mapping[str, int]]
    """Stream → `rows` and `tokens` before the fine-tune."""
    learned: Mapping[str, Mapping[str, int]]
    """Stream → `rows` and `tokens` of the fine-tune."""


@dataclass(frozen=True)
class Failure:
    """A trial that failed."""

    student: str
    seed: int
    reason: str


@dataclass(frozen=True)
class DomainRow:
    """A domain's students, and their differences."""

    students: Mapping[str, StudentResult]
    contrasts: Sequence[ContrastResult]
    questions: Mapping[str, int]
    """Task → number of test questions."""
    failed: Sequence[Failure]
    cost: Cost


@dataclass(frozen=True)
class DomainResult:
    """A domain's row, and the answers behind it."""

    row: DomainRow
    tasks: list[Answers]


def compared(
    cfg: DomainDataStudy,
    domain: str,
    readings: TrialsByArm,
    tuned: TrialsByArm,
    questions: Sequence[Questions],
    cost: Cost,
) -> DomainResult:
    """Compare a domain's arms whose trials are complete with every seed.

    Args:
        cfg: the study.
        domain: its name.
        readings: arm → seed → the trial that read, for arms that read something.
        tuned: arm → seed → the trial that was fine-tuned.
        questions: of the test split, of every task.
        cost: the domain's.

    Raises:
        InputError: too few trials ended for a single claim.
    """
    complete = complete_trials(tuned, cfg.seeds)
    tasks = [answers_of(cfg, domain, each, complete) for each in questions]
    results = contrasts(cfg, tasks)
    if not any(result.claim for result in results):
        what = f"{len(complete)} of {len(tuned)} arms ended with every seed."
        fix = "See what failed, and retry with --retry-failed."
        raise InputError("too few arms to compare:", [Problem("arms", what, fix)])
    students = {}
    for arm in arms_of(cfg):
        if arm.name not in complete:
            continue
        accuracy, nll = (
            np.mean([task.by_seed(arm.name, metric) for task in tasks], axis=0).tolist()
            for metric in METRICS
        )
        outcomes = [trial.outcome() for trial in complete[arm.name]]
        reading = readings.get(arm.name)
        students[arm.name] = StudentResult(
            text=arm.text,
            teacher=arm.teacher,
            accuracy=accuracy,
            nll=nll,
            before=[outcome.before.accuracy for outcome in outcomes],
            read={} if reading is None else streams_read(reading[cfg.seeds[0]].outcome()),
            learned=streams_read(outcomes[0]),
        )
    failed = [Failure(*each) for trials in (readings, tuned) for each in failed_trials(trials)]
    counts = {q.name: len(q.answer_index) for q in questions}
    return DomainResult(DomainRow(students, results, counts, failed, cost), tasks)


def streams_read(outcome: TrialOutcome) -> dict[str, dict[str, int]]:
    """Stream → `rows` and `tokens` that a training read."""
    streams = outcome.streams or {}
    return {name: {"rows": read.rows, "tokens": read.tokens} for name, read in streams.items()}


def contrasts(cfg: DomainDataStudy, tasks: Sequence[Answers]) -> list[ContrastResult]:
    """Every contrast whose arms all have answers."""
    results = []
    for contrast in contrasts_of(cfg):
        if not all(arm in task.arms for task in tasks for arm in contrast.weights):
            continue
        differences = {}
        for metric in METRICS:
            by_task = [task.contrast(contrast.weights, metric) for task in tasks]
            means = [(t.resamples, v.mean(axis=0)) for t, v in zip(tasks, by_task)]
            seeds = np.mean([values.mean(axis=1) for values in by_task], axis=0).tolist()
            differences[metric] = SeededDifference(
                **vars(difference_of(means, metric)), seeds=seeds
            )
        finding = FINDINGS.get(differences["accuracy"].verdict, "not shown")
        results.append(
            ContrastResult(
                contrast.name,
                contrast.claim,
                differences["accuracy"],
                differences["nll"],
                finding if contrast.claim else None,
            )
        )
    return results


def overall_of(cfg: DomainDataStudy, domains: Sequence[DomainResult]) -> list[OverallContrast]:
    """Contrasts over all tasks of some domains."""
    tasks = [task for domain in domains for task in domain.tasks]
    weights = {contrast.name: contrast.weights for contrast in contrasts_of(cfg)}
    results = []
    for result in contrasts(cfg, tasks):
        means = [task.contrast(weights[result.name], "accuracy").mean() for task in tasks]
        above = sum(bool(mean > 0) for mean in means)
        results.append(OverallContrast(**vars(result), means=above, tasks=len(tasks)))
    return results
