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
    order: TrainingJob, job: TrainingSpec, device: torch.device, pools: Mapping[str, Any]
) -> TeacherSource | None:
    """The teacher's side of a job on a worker; None for one that is loaded whole in the worker.

    Args:
        order: what is trained.
        job: the same with everything it reads on this machine.
        device: the worker's.
        pools: artifact path → the actors that were started for its teacher.
    """
    if job.teaching is None:
        return None
    if isinstance(order.serving, PoolServing):
        from distill_ray.stages.serving.pool_client import PoolTeacherSource

        return PoolTeacherSource(order.serving, job, pools[order.artifact.path], device)
    if isinstance(order.serving, CachedServing):
        pass

        return cached_source(order, device)
    if order.serving.shard:
        return colocated(job, device, shard=True)
    return None


def frozen_student_of(order: TrainingJob, device: torch.device) -> Cached | None:
    """Reads the losses of an order's frozen student on a worker; None where it has none."""
    if order.frozen_student is None:
        return None
    return Cached({(FROZEN_STUDENT, 0): order.frozen_student.local()}, device)


def cached_source(order: TrainingJob, device: torch.device) -> Cached:
    """Reads an order's targets on a worker."""
    folders = {checkpoint: artifact.local() for checkpoint, artifact in order.targets.items()}
    return Cached(folders, device)
