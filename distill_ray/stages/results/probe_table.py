"""The probe stage's result: outcomes of short distillations, and estimates beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.runtime.artifacts import Artifact, Result
from distill_ray.stages.results.trial import Trial, Trials


@dataclass(frozen=True)
class EstimateTable(Result):
    """Figures of the initial student on each teacher's greedy answers, without any training."""

    @property
    def rows(self) -> dict[str, dict[str, Any] | None]:
        """Teacher → fields of `engine.estimates.Estimates`; None for one that answered nothing."""
        return dict(self.artifact.read_json("estimates.json"))


CONTROL = "control"


@dataclass(frozen=True)
class ProbeTable(Trials):
    """The outcome of every probe, and what the student makes of each teacher's answers."""

    control: Trial | None = None
    """The student without a teacher; not among `trials`."""
    estimated: EstimateTable | None = None

    @property
    def artifacts(self) -> list[Artifact]:
        """What the stage left."""
        beside = (
            [self.control.artifact] if self.control and self.control.artifact.is_complete() else []
        )
        beside += [self.estimated.artifact] if self.estimated is not None else []
        return [*beside, *super().artifacts]

    @property
    def unaided(self) -> dict[str, Any] | None:
        """Task → [n, K] option log-likelihoods of the control; None if it failed."""
        if self.control is None or not self.control.artifact.is_complete():
            return None
        return dict(self.control.row()["options"])

    @property
    def estimates(self) -> dict[str, dict[str, Any] | None]:
        """Teacher → `EstimateTable.rows`."""
        return self.estimated.rows if self.estimated is not None else {}
