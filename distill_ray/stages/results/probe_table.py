"""The probe stage's result: outcomes of short distillations, and estimates beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from distill_ray.runtime.artifacts import Artifact, Result
from distill_ray.stages.results.record import Record
from distill_ray.stages.results.trial import Trial, Trials

CONTROL = "control"
ESTIMATES = "estimates.json"


class TeacherEstimates(Record):
    """What the initial student makes of a teacher's answers; of each, lower suits it better."""

    rsr: float
    surprisal: float
    """Nats a token."""
    gradient_norm: float | None
    """Computed from some of the samples, as `grace` is; None where no gradients are taken."""
    grace: float | None
    """None also for a teacher that answered one of those prompts alone."""
    samples: int
    tokens: int
    """Tokens of all answers."""


class EstimatesRecord(Record):
    """`estimates.json`."""

    teachers: dict[str, TeacherEstimates | None]
    """None for a teacher that answered nothing."""


@dataclass(frozen=True)
class EstimateTable(Result):
    """Estimates of the initial student on each teacher's greedy answers, without any training."""

    @cached_property
    def rows(self) -> dict[str, TeacherEstimates | None]:
        """Teacher → its estimates; None for one that answered nothing."""
        return EstimatesRecord.read(self.artifact, ESTIMATES).teachers


@dataclass(frozen=True)
class ProbeTable(Trials):
    """The outcome of every probe, and what the student makes of each teacher's answers."""

    control: Trial | None = None
    """The student without a teacher; not among `trials`."""
    estimated: EstimateTable | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """Artifacts of the stage."""
        control = self.control
        extra = [control.artifact] if control and control.artifact.is_complete() else []
        extra += [self.estimated.artifact] if self.estimated is not None else []
        return [*extra, *super().artifacts]

    @property
    def control_logprobs(self) -> dict[str, list[list[float]]] | None:
        """Task → [n, K] option log-likelihoods of the control; None if it failed."""
        if self.control is None or not self.control.artifact.is_complete():
            return None
        return self.control.outcome().options

    @property
    def estimates(self) -> dict[str, TeacherEstimates | None]:
        """Teacher → its estimates."""
        return self.estimated.rows if self.estimated is not None else {}
