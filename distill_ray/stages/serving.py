"""Where a job's teacher lives: in the worker, in a pool of its own, or in a cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from distill_ray.config.serving import CachedServing, PoolServing
from distill_ray.engine.job import Job, colocated
from distill_ray.engine.teacher import TeacherSource
from distill_ray.stages.order import Order


def source_of(
    order: Order, job: Job, device: torch.device, pools: Mapping[str, Any]
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
        from distill_ray.stages.pooled import Pooled

        return Pooled(order.serving, job, pools[order.artifact.path], device)
    if isinstance(order.serving, CachedServing):
        from distill_ray.stages.targets import cached_source

        return cached_source(order, device)
    if order.serving.shard:
        return colocated(job, device, shard=True)
    return None
