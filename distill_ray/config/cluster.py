"""What the run may use of the machine or the cluster."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill_ray.config.base import Section
from distill_ray.config.job import JobConfig


class ClusterConfig(Section):
    """Where it runs: here in Ray's single-node mode, or on a cluster that is already up."""

    address: str | None = None
    """A Ray address (`auto`, `host:6379`); none starts Ray on this machine alone, unless
    RAY_ADDRESS names a cluster, as it does in a job."""
    num_workers: PositiveInt = 1
    """Data-parallel workers of adapt and distill."""
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: NonNegativeFloat = 0.0
    memory_gib_per_worker: PositiveFloat | None = None
    """Memory (of the GPU if there is one) that a worker has; `plan` compares its need with it.
    Left out, it is this machine's memory shared by the workers."""
    object_store_gib: PositiveFloat = 0.5
    """Shared memory of a Ray that we start on this machine."""
    worker_timeout_s: PositiveFloat = 600.0
    """How long workers may wait for each other."""
    max_failures: NonNegativeInt = 2
    """Failures of workers that a training stage survives before it gives up."""
    job: JobConfig = JobConfig()
    """For `distill-ray submit`."""
