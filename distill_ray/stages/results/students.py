"""The distillation's result: the student and its control."""

from __future__ import annotations

from dataclasses import dataclass

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.curve import SWITCHES, Curve, SwitchEntry, SwitchLog
from distill_ray.stages.results.training_job import TrainingJob


@dataclass(frozen=True)
class Student:
    """A trained student."""

    training_job: TrainingJob

    @property
    def ref(self) -> ModelRef:
        """Its weights."""
        return self.training_job.selected_ref()

    @property
    def curve(self) -> Curve:
        """The course of its training."""
        return self.training_job.curve()

    @property
    def switch_log(self) -> list[SwitchEntry]:
        """Every switch and assessment of its training, in order."""
        return SwitchLog.read(self.training_job.artifact, SWITCHES).entries

    @property
    def fingerprint(self) -> str:
        """Identity of its weights."""
        return f"{self.training_job.artifact.fingerprint}/{self.training_job.selected_checkpoint()}"

    @property
    def teacher(self) -> str:
        """The teacher at the end of training; of several, the one that taught the most tokens."""
        curve = self.curve
        assert curve.schedule is not None
        if curve.schedule.teacher != ENSEMBLE:
            return curve.schedule.teacher
        return max(curve.tokens_by_teacher, key=lambda name: curve.tokens_by_teacher[name])


@dataclass(frozen=True)
class Students:
    """The distilled student, and the same student fine-tuned without a teacher."""

    distilled: Student
    control: Student

    @property
    def artifacts(self) -> list[Artifact]:
        """What the stage left."""
        return [self.distilled.training_job.artifact, self.control.training_job.artifact]
