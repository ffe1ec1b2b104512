"""What the run may use of the machine or the cluster."""

from __future__ import annotations

from pydantic import model_validator

from distill_ray.config.base import Section
from distill_ray.config.job import JobConfig
from distill_ray.config.numbers import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


class ClusterConfig(Section):
    """What a run may use of this machine or of a cluster."""

    address: str | None = None
    """A Ray address (`auto`, `host:6379`). Without one, Ray starts on this machine only, unless
    RAY_ADDRESS names a cluster, as it does in a job."""
    num_workers: PositiveInt = 1
    """Data-parallel workers of adapt and distill."""
    min_workers: PositiveInt | None = None
    """Training starts with at least this many workers, continues with fewer when nodes are lost,
    and grows up to `num_workers` when nodes join. Without it, there are always `num_workers`."""
    resize_interval_s: PositiveFloat = 60.0
    """Least seconds between two enlargements of the group of workers. An enlargement repeats the
    work since the last checkpoint."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPU cores of a worker."""
    gpus_per_worker: NonNegativeFloat = 0.0
    """GPUs of a worker."""
    memory_gib_per_worker: PositiveFloat | None = None
    """Memory of a worker (of its GPU if it has one), which `plan` compares with the need. By
    default, this machine's memory divided by the workers."""
    object_store_gib: PositiveFloat = 0.5
    """Shared memory of a Ray that the run starts on this machine."""
    worker_timeout_s: PositiveFloat = 600.0
    """Seconds that workers wait for each other."""
    max_failures: NonNegativeInt = 2
    """Worker failures that a training stage survives."""
    max_preemptions: NonNegativeInt | None = None
    """Nodes that may be taken back from a training stage, counted separately from failures. `null`
    allows any number."""
    save_interval_s: PositiveFloat | None = 600.0
    """A checkpoint is also written after this many seconds, beside every `save_steps` steps, so a
    loss costs at most this much training. `null` writes by steps only."""
    job: JobConfig = JobConfig()
    """What `distill-ray submit` sends."""

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
