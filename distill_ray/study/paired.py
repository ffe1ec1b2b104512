"""Paired comparisons of arms with each other and with teachers. S seeds, n questions.

Seeds are averaged first, then questions are resampled in their groups: an interval shows the
uncertainty from the questions. The number of seeds that agree shows that from the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.study import StudyConfig
from distill_ray.core.calibration import nll_each, normalise, right_each
from distill_ray.core.intervals import Interval, verdict
from distill_ray.core.resampling import Resamples
from distill_ray.data.examples import Questions
from distill_ray.stages.results.trial import Trial

Floats = NDArray[np.float64]
METRICS = ("accuracy", "nll")
TeacherRole = Literal["last", "most_accurate"]
"""The teacher that served last, or the most accurate teacher."""


@dataclass(frozen=True)
class Answers:
    """The answers of all arms to a task's test questions."""

    resamples: Resamples
    arms: dict[str, Mapping[str, Floats]]
    """Arm → metric → [S, n]."""

    def by_seed(self, arm: str, metric: str) -> Floats:
        """[S] an arm's metric, the mean over questions."""
        return np.asarray(self.arms[arm][metric].mean(axis=1))

    def difference(self, arm: str, baseline: str, metric: str) -> Floats:
        """[n] an arm's metric minus another arm's."""
        means = [self.arms[name][metric].mean(axis=0) for name in (arm, baseline)]
        return np.asarray(means[0] - means[1])

    def contrast(self, weights: Mapping[str, float], metric: str) -> Floats:
        """[S, n] the weighted sum of some arms' metric."""
        return np.asarray(sum(w * self.arms[name][metric] for name, w in weights.items()))


def answers_of(
    cfg: StudyConfig, domain: str, questions: Questions, trials: Mapping[str, Sequence[Trial]]
) -> Answers:
    """The answers to a task's test questions.

    Args:
        cfg: the study.
        domain: the name of the task's domain.
        questions: of the task.
        trials: arm → its trial with each seed.
    """
    name, correct = questions.name, np.asarray(questions.answer_index)
    resamples = Resamples(
        questions.groups,
        confidence=cfg.confidence,
        seed=crc32(f"{domain}/{name}".encode()),  # Each task's draws are independent.
        resamples=cfg.num_bootstrap,
    )
    arms: dict[str, Mapping[str, Floats]] = {}
    for arm, by_seed in trials.items():
        p = [normalise(trial.answers("test")[name]) for trial in by_seed]
        arms[arm] = {
            "accuracy": np.stack([right_each(each, correct) for each in p]),
            "nll": np.stack([nll_each(each, correct) for each in p]),
        }
    return Answers(resamples, arms)


@dataclass(frozen=True)
class PairedAnswers(Answers):
    """The same, with the answers of the teachers."""

    teachers: Mapping[str, Mapping[str, Floats]]
    """Teacher → metric → [n]."""
    last_teachers: dict[str, Sequence[str]] = field(default_factory=dict)
    """Arm → the teacher that served last, for each seed."""
    most_accurate: str = ""
    """The most accurate teacher."""

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
    leads = [t.by_seed(arm, "accuracy") - t.by_seed(baseline, "accuracy") for t in tasks]
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
