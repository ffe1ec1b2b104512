"""The evaluation's result: the student against its control and the teachers, on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from distill_ray.core.intervals import Interval
from distill_ray.core.weighting import FavourableSets
from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.record import Record

STUDENT, CONTROL = "student", "control"
SCORES = "scores.json"


class TestedModel(Record):
    """One model's metrics on the test split."""

    parameters: int
    text: dict[str, float]
    """Corpus → mean token NLL, nats."""
    divergence: dict[str, float]
    """`text.kl`, `task.kl`: mean KL(teacher ‖ this model); empty for teachers."""
    tasks: dict[str, TaskMetrics]
    """Question set, shifted sets included → metrics."""


class Comparison(Record):
    """The student minus another model on one question set, with the student's verdicts."""

    against: str
    """The other model."""
    set: str
    """The question set."""
    accuracy: Interval
    nll: Interval
    accuracy_verdict: str
    """`better`, `worse` or `no difference shown`."""
    nll_verdict: str
    favourable_sets: FavourableSets
    """Which questions each of the two does better, by NLL."""


class GapQuestion(Record):
    """A question on which the student and its teacher are far apart."""

    row_id: str
    text: str
    answer: str
    """The right option."""
    student: float
    """NLL of the right option, nats."""
    teacher: float


class LargestGaps(Record):
    """The questions on which each side leads by most."""

    student: list[GapQuestion]
    teacher: list[GapQuestion]


class FinalScores(Record):
    """`scores.json`."""

    rows: dict[str, TestedModel]
    comparisons: list[Comparison]
    teacher: str
    largest_gaps: dict[str, LargestGaps]


@dataclass(frozen=True)
class Scores(Result):
    """Test metrics of every model, and the student's differences with their intervals."""

    @property
    def rows(self) -> dict[str, TestedModel]:
        """Model → its metrics."""
        return self._record.rows

    @property
    def comparisons(self) -> list[Comparison]:
        """The student against every other model on every set."""
        return self._record.comparisons

    @property
    def largest_gaps(self) -> dict[str, LargestGaps]:
        """Set → questions on which the student or its teacher leads by most."""
        return self._record.largest_gaps

    @property
    def teacher(self) -> str:
        """The teacher that taught last, or the most, to which KL is measured."""
        return self._record.teacher

    @cached_property
    def _record(self) -> FinalScores:
        return FinalScores.read(self.artifact, SCORES)
