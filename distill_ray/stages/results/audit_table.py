"""The audit's result: figures of every teacher on the validation split."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore
from distill_ray.stages.results.teacher_set import TeacherSet

INITIAL = "initial-student"


@dataclass(frozen=True)
class AuditTable(Result):
    """Figures of every teacher on the validation split, and of the initial student."""

    sheets: dict[str, ModelScores] = field(default_factory=dict)
    """Model → its answers, from which the figures were made."""

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Model → its figures.

        `parameters`, `size_ratio`, `capacity`, `vocabulary_fit`, `chat_template`; `text` (NLL by
        corpus), `text_nll` (with intervals), `full_ece`; `tasks` and `shifted` (the fields of
        TaskMetrics, and `scaled`), `drops` (shifted set → task minus set), `temperature`.
        """
        return dict(self._data["rows"])

    @property
    def failed(self) -> dict[str, str]:
        """Teacher that couldn't be scored → why."""
        return dict(self._data["failed"])

    @property
    def temperatures(self) -> dict[str, float]:
        """Model → the temperature that makes its answers honest."""
        return {name: float(row["temperature"]) for name, row in self.rows.items()}

    @cached_property
    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("audit.json"))


def initial(teachers: TeacherSet) -> ModelToScore:
    """The student before it learns anything."""
    return ModelToScore(INITIAL, teachers.student.ref, teachers.student.fingerprint)
