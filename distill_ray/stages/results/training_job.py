"""A training job, and the artifact that it fills. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from distill_ray.config.serving import ColocatedServing, PoolServing, Serving
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.loop import checkpoint_losses
from distill_ray.engine.row_plan import Checkpoint
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.stages.results.curve import Curve
from distill_ray.stages.results.data_spec import local_data
from distill_ray.stages.results.local_files import BEST, local_ref


@dataclass(frozen=True)
class TrainingJob:
    """A training, and the artifact that it fills: what `training.train` runs."""

    stage: str
    """Under which stage its progress is shown."""
    spec: TrainingSpec
    artifact: Artifact
    shards: Artifact
    save_steps: int
    """Steps between checkpoints for resuming."""
    serving: Serving = field(default_factory=ColocatedServing)
    """Where its teacher lives."""
    targets: Mapping[Checkpoint, Artifact] = field(default_factory=dict)
    """Checkpoint → its targets on disk, where the teacher is read from a cache."""
    frozen_student: Artifact | None = None
    """Losses of the frozen student on disk, where samples are weighted by it."""

    def local_spec(self) -> TrainingSpec:
        """The training with everything that it reads on this machine."""
        data = local_data(self.spec.data, self.shards)
        if isinstance(self.serving, PoolServing):  # Its actors read the teachers.
            return replace(self.spec, data=data, student=local_ref(self.spec.student))
        return replace(self.spec.with_refs(local_ref), data=data)

    def checkpoint_refs(self) -> list[ModelRef]:
        """The checkpoints that it has left, in order of training: fewer if it stopped early."""
        return [self._ref(str(i)) for i in range(len(self.checkpoint_losses()))]

    def best_ref(self) -> ModelRef:
        """The checkpoint with the least validation loss; known before training, read after it."""
        return self._ref(BEST)

    def selected_checkpoint(self) -> int:
        """Index of the checkpoint that its outcome is, as `distill.select_checkpoint` says."""
        if getattr(self.spec.training, "select_checkpoint", "last") == "best":
            return self.curve().best
        return len(self.checkpoint_losses()) - 1

    def selected_ref(self) -> ModelRef:
        """The checkpoint that its outcome is, as a model."""
        return self._ref(str(self.selected_checkpoint()))

    def _ref(self, checkpoint_index: str) -> ModelRef:
        folder = self.artifact.storage.sub(
            f"{self.artifact.path}/checkpoints/{checkpoint_index}"
        ).uri
        if self.spec.lora is not None:
            return self.spec.student.with_adapter(folder)
        return ModelRef("path", folder)

    def curve(self) -> Curve:
        """The course of the training."""
        return Curve.of(self.artifact)

    def checkpoint_losses(self) -> list[float]:
        """Validation loss at each checkpoint."""
        return checkpoint_losses(self.curve().history, self.spec.checkpoint_steps)
