"""The adapt stage's result: teachers that can serve, and their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.adaptation_gain import AdaptationGain
from distill_ray.stages.results.curve import Curve

STUDENT = "student"


@dataclass(frozen=True)
class Weights:
    """A model as it enters a stage."""

    ref: ModelRef
    fingerprint: str


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to serve."""

    name: str
    base_model: Weights
    """Its weights before any recipe."""
    all_checkpoints: list[ModelRef]
    """Checkpoints of its last recipe, in order of training; the base model without one."""
    losses: list[float | None]
    """Validation loss at each checkpoint; None for a teacher that was not trained here."""
    best: int
    """The checkpoint that serves: the config's, else the one with the least validation loss."""
    fingerprint: str
    """Identity of its checkpoints."""
    adapted_is_better: bool = True
    """Whether its adapted weights serve; else its base model does, see `AdaptationGain`."""

    @property
    def checkpoints(self) -> list[ModelRef]:
        """The checkpoints that may serve: up to the best one, or the base model alone."""
        return (
            self.all_checkpoints[: self.best + 1]
            if self.adapted_is_better
            else [self.base_model.ref]
        )

    @property
    def serving(self) -> Weights:
        """The checkpoint that is audited and probed."""
        return self.adapted if self.adapted_is_better else self.base_model

    @property
    def adapted(self) -> Weights:
        """Its best checkpoint, whether or not it is better than the base model."""
        return Weights(self.all_checkpoints[self.best], f"{self.fingerprint}/{self.best}")

    @property
    def is_trained(self) -> bool:
        """Whether it has been through a recipe."""
        return self.losses[0] is not None


@dataclass(frozen=True)
class TeacherSet:
    """All teachers of a run that can serve, and the student that they will teach."""

    student: Weights
    """The initial student."""
    teachers: dict[str, Teacher]
    curves: dict[str, list[Curve]]
    """Teacher → the curve of each of its recipes."""
    artifacts: list[Artifact]
    """What the stage left: one for each recipe on each model, and the gains."""
    gains: dict[str, AdaptationGain] = field(default_factory=dict)
    """Trained teacher → adapted minus base model, with intervals."""
    failed: dict[str, str] = field(default_factory=dict)
    """Teacher that was left out → why."""

    def fingerprints(self) -> dict[str, str]:
        """Teacher → identity of its weights."""
        return {
            n: t.fingerprint if t.adapted_is_better else t.base_model.fingerprint
            for n, t in self.teachers.items()
        }


def softened(checkpoints: Sequence[ModelRef], temperature: float) -> list[ModelRef]:
    """The same checkpoints, which as teachers divide their logits by a temperature."""
    return [replace(checkpoint, temperature=temperature) for checkpoint in checkpoints]
