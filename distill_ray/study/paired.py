"""Arms against each other and against teachers, question by question. S seeds, n questions.

Seeds are averaged first, questions are resampled in their groups: an interval says how much the
questions decide. How much the seeds do is seen by how many of them agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.intervals import Interval, verdict
from distill_ray.core.resampling import Resamples

Floats = NDArray[np.float64]
FIGURES = ("accuracy", "nll")


@dataclass(frozen=True)
class PairedAnswers:
    """Everyone's answers to a task's test questions."""

    over: Resamples
    arms: dict[str, Mapping[str, Floats]]
    """Arm → figure → [S, n]."""
    teachers: Mapping[str, Mapping[str, Floats]]
    """Teacher → figure → [n]."""
    last: dict[str, Sequence[str]] = field(default_factory=dict)
    """Arm → the teacher that served last, with each seed."""
    strongest: str = ""

    def lead(self, arm: str, other: str, figure: str) -> Floats:
        """[n] an arm's figure minus another arm's."""
        ours, theirs = (self.arms[name][figure].mean(axis=0) for name in (arm, other))
        return np.asarray(ours - theirs)

    def seeds(self, arm: str) -> Floats:
        """[S] an arm's accuracy."""
        return np.asarray(self.arms[arm]["accuracy"].mean(axis=1))

    def over_last(self, arm: str, figure: str) -> Floats:
        """[n] an arm's figure minus that of the teacher that served last, seed by seed."""
        pairs = zip(self.arms[arm][figure], self.last[arm])
        found = [ours - self.teachers[name][figure] for ours, name in pairs]
        return np.asarray(np.mean(found, axis=0))

    def over_strongest(self, arm: str, figure: str) -> Floats:
        """[n] an arm's figure minus the most accurate teacher's."""
        return np.asarray(
            self.arms[arm][figure].mean(axis=0) - self.teachers[self.strongest][figure]
        )


def interval_of(differences: Sequence[tuple[Resamples, Floats]]) -> Interval:
    """The mean over tasks of the mean over questions, with each task's questions resampled.

    Args:
        differences: of each task: its resamples, drawn apart from the others', and [n].
    """
    draws = np.mean([over.means(values) for over, values in differences], axis=0)
    value = fmean(float(values.mean()) for _, values in differences)
    return differences[0][0].interval(value, draws)


def against(tasks: Sequence[PairedAnswers], arm: str, other: str) -> dict[str, Any]:
    """`accuracy` and `nll`: an arm minus another over tasks, each with `verdict`; on how many tasks
    it is `better` and `worse` in accuracy; with how many of the `seeds` of all tasks it is `ahead`,
    both having read the same batches."""
    row = _compared(tasks, [{f: t.lead(arm, other, f) for f in FIGURES} for t in tasks])
    leads = [t.seeds(arm) - t.seeds(other) for t in tasks]
    return row | {"ahead": sum(int((x > 0).sum()) for x in leads), "seeds": sum(map(len, leads))}


def against_teacher(tasks: Sequence[PairedAnswers], arm: str, which: str) -> dict[str, Any]:
    """The same against the teacher that served `last`, or the `strongest`; with the share of tasks
    on which the arm `matches` it (is not worse by the interval), `beats` it (is better by it), and
    is `not_below` it (its mean is no less)."""
    found = [
        {f: (t.over_last if which == "last" else t.over_strongest)(arm, f) for f in FIGURES}
        for t in tasks
    ]
    row = _compared(tasks, found)
    count = len(tasks)
    row["matches"] = 1 - row["worse"] / count
    row["beats"] = row["better"] / count
    row["not_below"] = sum(values["accuracy"].mean() >= 0 for values in found) / count
    return row


def _compared(
    tasks: Sequence[PairedAnswers], found: Sequence[Mapping[str, Floats]]
) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for figure in FIGURES:
        pairs = [(task.over, values[figure]) for task, values in zip(tasks, found)]
        whole = interval_of(pairs)
        said = verdict(whole, higher_is_better=figure == "accuracy")
        row[figure] = {**asdict(whole), "verdict": said}
    verdicts = [verdict(t.over.mean(values["accuracy"])) for t, values in zip(tasks, found)]
    return {**row, **{what: verdicts.count(what) for what in ("better", "worse")}}
