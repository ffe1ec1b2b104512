"""The evaluation's result: the student against its control and the teachers, on the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.question_metrics import TaskMetrics
from distill_ray.stages.results.record import Record

STUDENT, CONTROL = "student", "control"


class TestedModel(Record):
    """One model's metrics on the test split."""

    parameters: int
    text: dict[str, float]
    """Corpus → mean token NLL, nats."""
    divergence: dict[str, float]
    """`text.kl`, `task.kl`: mean KL(teacher ‖ this model); empty for teachers."""
    tasks: dict[str, TaskMetrics]
    """Question set, shifted sets included → metrics."""


@dataclass(frozen=True)
class Scores(Result):
    """Test figures of everyone, and the student's differences with their intervals."""

    @property
    def rows(self) -> dict[str, TestedModel]:
        """Model → its metrics."""
        return {n: TestedModel.model_validate(row) for n, row in self._data()["rows"].items()}

    @property
    def comparisons(self) -> list[dict[str, Any]]:
        """The student against another model on a set: accuracy and NLL difference, verdicts, and
        the `sides` of their NLL."""
        return list(self._data()["comparisons"])

    @property
    def widest(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Set → `student`, `teacher` → questions on which that side is farthest ahead."""
        return dict(self._data()["widest"])

    @property
    def teacher(self) -> str:
        """The teacher that taught last, or the most, to which KL is measured."""
        return str(self._data()["teacher"])

    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("scores.json"))
