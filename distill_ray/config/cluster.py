"""What the run may use of the machine or the cluster."""

from __future__ import annotations

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from distill_ray.config.base import Section
from distill_ray.config.job import JobConfig


class ClusterConfig(Section):
    """Where it runs: here in Ray's single-node mode, or on a cluster that is already up."""

    address: str | None = None
    """A Ray address (`auto`, `host:6379`); none starts Ray on this machine alone, unless
    RAY_ADDRESS names a cluster, as it does in a job."""
    num_workers: PositiveInt = 1
    """Data-parallel workers of adapt and distill."""
    min_workers: PositiveInt | None = None
    """With as few of them training begins, and goes on when nodes are lost; as nodes come, it goes
    on with more, up to `num_workers`. Left out, there are always `num_workers`."""
    resize_interval_s: PositiveFloat = 60.0
    """How long a group of workers trains before it may be made larger: work since the last
    checkpoint is done again then."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores of a worker."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs of a worker."""
    memory_gib_per_worker: PositiveFloat | None = None
    """Memory (of the GPU if there is one) that a worker has; `plan` compares its need with it.
    Left out, it is this machine's memory shared by the workers."""
    object_store_gib: PositiveFloat = 0.5
    """Shared memory of a Ray that we start on this machine."""
    worker_timeout_s: PositiveFloat = 600.0
    """How long workers may wait for each other."""
    max_failures: NonNegativeInt = 2
    """Failures of workers that a training stage survives before it gives up."""
    max_preemptions: NonNegativeInt | None = None
    """Nodes that may be taken back from a training stage before it gives up, counted apart from
    failures; null for any number."""
    save_interval_s: PositiveFloat | None = 600.0
    """Seconds of training that a loss may cost at most: beside every `save_steps` steps, a
    checkpoint is written after this long. null writes by steps alone."""
    job: JobConfig = JobConfig()
    """For `distill-ray submit`."""

    @property
    def fewest_workers(self) -> int:
        """With which training goes on."""
        return self.min_workers or self.num_workers

    @model_validator(mode="after")
    def _ordered(self) -> ClusterConfig:
        if self.fewest_workers > self.num_workers:
            raise ValueError(
                f"min_workers: {self.min_workers} is more than num_workers {self.num_workers}"
            )
        return self
