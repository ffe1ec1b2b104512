"""The distillation's result: the student and its control."""

from __future__ import annotations

from dataclasses import dataclass, replace

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.serving import PoolServing
from distill_ray.engine.job import TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import cache_folder
from distill_ray.stages.results.curve import SWITCHES, Curve, SwitchEntry, SwitchLog
from distill_ray.stages.results.local_files import local_ref
from distill_ray.stages.results.training_job import TrainingJob


@dataclass(frozen=True)
class Student:
    """A trained student."""

    order: TrainingJob

    @property
    def ref(self) -> ModelRef:
        """Its weights."""
        return self.order.kept_ref()

    @property
    def curve(self) -> Curve:
        """The course of its training."""
        return self.order.curve()

    @property
    def switch_log(self) -> list[SwitchEntry]:
        """Every switch and assessment of its training, in order."""
        return SwitchLog.read(self.order.artifact, SWITCHES).entries

    @property
    def fingerprint(self) -> str:
        """Identity of its weights."""
        return f"{self.order.artifact.fingerprint}/{self.order.kept()}"

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
        return [self.distilled.order.artifact, self.control.order.artifact]


def local(order: TrainingJob) -> TrainingSpec:
    """The job with everything it reads on this machine."""
    data = replace(order.job.data, folder=order.shards.local(), cache=cache_folder() / "rows")
    if isinstance(order.serving, PoolServing):  # Its actors read the teachers.
        return replace(order.job, data=data, student=local_ref(order.job.student))
    return replace(order.job.with_refs(local_ref), data=data)
