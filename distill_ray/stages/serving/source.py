"""Where a job's teacher lives: in the worker, in a pool of its own, or in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill_ray.config.serving import CachedServing, PoolServing
from distill_ray.engine.build import colocated
from distill_ray.engine.job import FROZEN_STUDENT, TrainingSpec
from distill_ray.engine.teachers.base import TeacherSource
from distill_ray.engine.teachers.cached import Cached
from distill_ray.stages.results.training_job import TrainingJob


def source_of(
    training_job: TrainingJob,
    local_spec: TrainingSpec,
    device: torch.device,
    pools: Mapping[str, Any],
) -> TeacherSource | None:
    """The teacher's side of a job on a worker; None for one that is loaded whole in the worker.

    Args:
        training_job: what is trained.
        local_spec: its spec, with everything that it reads on this machine.
        device: the worker's.
        pools: artifact path → the actors that were started for its teacher.
    """
    if local_spec.teaching is None:
        return None
    if isinstance(training_job.serving, PoolServing):
        from distill_ray.stages.serving.pool_client import PoolTeacherSource

        return PoolTeacherSource(
            training_job.serving, local_spec, pools[training_job.artifact.path], device
        )
    if isinstance(training_job.serving, CachedServing):
        targets = {place: artifact.local() for place, artifact in training_job.targets.items()}
        return Cached(targets, device)
    if training_job.serving.shard:
        return colocated(local_spec, device, shard=True)
    return None


def frozen_student_of(training_job: TrainingJob, device: torch.device) -> Cached | None:
    """Read the losses of a job's frozen student on a worker; None where it has none."""
    if training_job.frozen_student is None:
        return None
    return Cached({(FROZEN_STUDENT, 0): training_job.frozen_student.local()}, device)
