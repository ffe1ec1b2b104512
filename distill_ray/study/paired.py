"""Paired comparisons of arms with each other and with teachers. S seeds, n questions.

Seeds are averaged first, then questions are resampled in their groups: an interval shows the
uncertainty from the questions. The number of seeds that agree shows that from the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.intervals import Interval, verdict
from distill_ray.core.resampling import Resamples

Floats = NDArray[np.float64]
METRICS = ("accuracy", "nll")
TeacherRole = Literal["last", "most_accurate"]
"""The teacher that served last, or the most accurate teacher."""


@dataclass(frozen=True)
class PairedAnswers:
    """The answers of all arms and teachers to a task's test questions."""

    resamples: Resamples
    arms: dict[str, Mapping[str, Floats]]
    """Arm → metric → [S, n]."""
    teachers: Mapping[str, Mapping[str, Floats]]
    """Teacher → metric → [n]."""
    last_teachers: dict[str, Sequence[str]] = field(default_factory=dict)
    """Arm → the teacher that served last, for each seed."""
    most_accurate: str = ""
    """The most accurate teacher."""

    def difference(self, arm: str, baseline: str, metric: str) -> Floats:
        """[n] an arm's metric minus another arm's."""
        means = [self.arms[name][metric].mean(axis=0) for name in (arm, baseline)]
        return np.asarray(means[0] - means[1])

    def accuracy_by_seed(self, arm: str) -> Floats:
        """[S] an arm's accuracy."""
        return np.asarray(self.arms[arm]["accuracy"].mean(axis=1))

    def minus_teacher(self, arm: str, teacher: TeacherRole, metric: str) -> Floats:
        """[n] an arm's metric minus a teacher's, seed by seed for the teacher that served last."""
        if teacher == "most_accurate":
            mean = self.arms[arm][metric].mean(axis=0)
            return np.asarray(mean - self.teachers[self.most_accurate][metric])
        pairs = zip(self.arms[arm][metric], self.last_teachers[arm])
        differences = [values - self.teachers[name][metric] for values, name in pairs]
        return np.asarray(np.mean(differences, axis=0))


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference with its interval."""

    verdict: str
    """`better`, `worse` or `no difference shown`."""


@dataclass(frozen=True)
class Comparison:
    """An arm minus a baseline, over tasks."""

    accuracy: Difference
    nll: Difference
    better: int
    """Tasks on which the arm's accuracy is better by the interval."""
    worse: int


@dataclass(frozen=True)
class ArmComparison(Comparison):
    """An arm minus another arm; both read the same batches with a seed."""

    ahead: int
    """Seeds of all tasks with which the arm's accuracy is higher."""
    seeds: int
    """Seeds of all tasks."""


@dataclass(frozen=True)
class TeacherComparison(Comparison):
    """An arm minus a teacher."""

    matches: float
    """Share of tasks on which the arm isn't worse by the interval."""
    beats: float
    """Share of tasks on which the arm is better by the interval."""
    not_below: float
    """Share of tasks on which the arm's mean is no lower."""


def interval_of(differences: Sequence[tuple[Resamples, Floats]]) -> Interval:
    """The mean over tasks of the mean over questions, with each task's questions resampled.

    Args:
        differences: for each task its resamples, drawn independently, and [n] differences.
    """
    draws = np.mean([resamples.means(values) for resamples, values in differences], axis=0)
    value = fmean(float(values.mean()) for _, values in differences)
    return differences[0][0].interval(value, draws)


def compare_arms(tasks: Sequence[PairedAnswers], arm: str, baseline: str) -> ArmComparison:
    """Compare an arm with another arm."""
    common = _compare(tasks, [{m: t.difference(arm, baseline, m) for m in METRICS} for t in tasks])
    leads = [t.accuracy_by_seed(arm) - t.accuracy_by_seed(baseline) for t in tasks]
    ahead = sum(int((lead > 0).sum()) for lead in leads)
    return ArmComparison(**vars(common), ahead=ahead, seeds=sum(map(len, leads)))


def compare_with_teacher(
    tasks: Sequence[PairedAnswers], arm: str, teacher: TeacherRole
) -> TeacherComparison:
    """Compare an arm with a teacher."""
    differences = [{m: t.minus_teacher(arm, teacher, m) for m in METRICS} for t in tasks]
    common, count = _compare(tasks, differences), len(tasks)
    return TeacherComparison(
        **vars(common),
        matches=1 - common.worse / count,
        beats=common.better / count,
        not_below=sum(float(d["accuracy"].mean()) >= 0 for d in differences) / count,
    )


def _compare(
    tasks: Sequence[PairedAnswers], differences: Sequence[Mapping[str, Floats]]
) -> Comparison:
    by_metric = {}
    for metric in METRICS:
        pairs = [(task.resamples, values[metric]) for task, values in zip(tasks, differences)]
        by_metric[metric] = difference_of(pairs, metric)
    verdicts = [
        verdict(task.resamples.mean(values["accuracy"])) for task, values in zip(tasks, differences)
    ]
    counts = {what: verdicts.count(what) for what in ("better", "worse")}
    return Comparison(by_metric["accuracy"], by_metric["nll"], **counts)


def difference_of(pairs: Sequence[tuple[Resamples, Floats]], metric: str) -> Difference:
    """A metric's difference over tasks, with its interval and verdict."""
    interval = interval_of(pairs)
    return Difference(
        **vars(interval), verdict=verdict(interval, higher_is_better=metric == "accuracy")
    )
