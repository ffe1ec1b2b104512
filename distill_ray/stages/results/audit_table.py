"""The audit's result: metrics of every teacher on the validation split."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from distill_ray.core.intervals import Interval
from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.model_scores import Capacity, ModelScores, ModelToScore
from distill_ray.stages.results.question_metrics import AuditedMetrics
from distill_ray.stages.results.record import Record
from distill_ray.stages.results.teacher_set import TeacherSet

INITIAL = "initial-student"
AUDIT = "audit.json"


class TextNll(Record):
    """Token NLL of held-out text, nats, with intervals over packed rows."""

    corpora: dict[str, Interval]
    kinds: dict[str, Interval]
    """`domain`, `generic` → NLL of all tokens of that kind."""


class ShiftDrop(Record):
    """How much worse a model is on a shifted set than on its task: positive is worse."""

    accuracy: Interval
    nll: Interval


class AuditedModel(Record):
    """What the audit measured of one model."""

    parameters: int
    size_ratio: float
    """Parameters, as a multiple of the student's."""
    capacity: Capacity
    vocabulary_fit: float
    """Share of the student's tokens that are in the model's vocabulary."""
    chat_template: bool | None
    """Whether its tokenizer has one; None where it has no tokenizer."""
    text: dict[str, float]
    """Corpus → mean token NLL, nats."""
    text_nll: TextNll
    full_ece: dict[str, float | None]
    """Stream → token-level calibration error over the whole vocabulary."""
    temperature: float
    """Calibrates its answers, fitted on the questions of all tasks."""
    tasks: dict[str, AuditedMetrics]
    shifted: dict[str, AuditedMetrics]
    """`<task>.<shifted set>` → metrics."""
    drops: dict[str, ShiftDrop]
    """`<task>.<shifted set>` → what is lost on it."""

    @property
    def sets(self) -> dict[str, AuditedMetrics]:
        """Tasks and shifted sets together."""
        return {**self.tasks, **self.shifted}


class AuditRecord(Record):
    """`audit.json`."""

    rows: dict[str, AuditedModel]
    failed: dict[str, str]


@dataclass(frozen=True)
class AuditTable(Result):
    """Metrics of every teacher on the validation split, and of the initial student."""

    scores: dict[str, ModelScores] = field(default_factory=dict)
    """Model → its answers, from which the metrics were computed."""

    @property
    def rows(self) -> dict[str, AuditedModel]:
        """Model → its metrics."""
        return self._record.rows

    @property
    def failed(self) -> dict[str, str]:
        """Teacher that couldn't be scored → why."""
        return self._record.failed

    @property
    def temperatures(self) -> dict[str, float]:
        """Model → the temperature that calibrates its answers."""
        return {name: row.temperature for name, row in self.rows.items()}

    @cached_property
    def _record(self) -> AuditRecord:
        return AuditRecord.read(self.artifact, AUDIT)


def initial(teachers: TeacherSet) -> ModelToScore:
    """The student before it learns anything."""
    return ModelToScore(INITIAL, teachers.student.ref, teachers.student.fingerprint)
