"""A training job, and the artifact that it fills. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distill_ray.config.training import ColocatedServing, Serving
from distill_ray.engine.job import Job
from distill_ray.engine.loop import task_loss
from distill_ray.engine.timetable import Checkpoint
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact


@dataclass(frozen=True)
class Order:
    """What `training.train` is given."""

    stage: str
    """Under which stage its progress is shown."""
    job: Job
    artifact: Artifact
    shards: Artifact
    save_every: int
    """Steps between checkpoints for resuming."""
    serving: Serving = field(default_factory=ColocatedServing)
    """Where its teacher lives."""
    targets: Mapping[Checkpoint, Artifact] = field(default_factory=dict)
    """Checkpoint → its targets on disk, where the teacher is read from a cache."""

    def rung_refs(self) -> list[ModelRef]:
        """The checkpoints that it leaves, in order of training."""
        folders = [
            self.artifact.storage.sub(f"{self.artifact.path}/checkpoints/{i}").uri
            for i in range(self.job.rungs)
        ]
        if self.job.lora is not None:
            return [self.job.student.with_adapter(folder) for folder in folders]
        return [ModelRef("path", folder) for folder in folders]

    def curve(self) -> dict[str, Any]:
        """`history`, `initial_loss`, `switches`, `schedule`, `bad_steps` of the finished job."""
        return dict(self.artifact.read_json("curve.json"))

    def rung_losses(self) -> list[float]:
        """Validation loss at each rung."""
        rows = {row["step"]: row for row in self.curve()["history"]}
        return [task_loss(validation_of(rows[end])) for end in self.job.rung_ends]


def validation_of(row: dict[str, Any]) -> dict[str, float]:
    """The validation terms of a curve's row."""
    prefix = "validation."
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
