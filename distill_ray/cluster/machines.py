"""Machines with GPUs that clouds rent out, and the choice of one; no prices."""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill_ray.config.errors import InputError, Problem

RESERVE = 0.9
"""Share of a GPU's memory that the plan may use; the rest is the driver's and the allocator's."""
SHARED = 0.3
"""Share of the main memory for Ray's objects, in /dev/shm: Ray's own default."""


@dataclass(frozen=True)
class Machine:
    """One machine type of a cloud."""

    name: str
    gpus: int
    gpu: str
    gpu_gib: int
    """Memory of each GPU that programs can use: what the driver reports, rounded down."""
    cpus: int
    memory_gib: int
    """Main memory."""
    bfloat16: bool = True
    """Whether the GPU computes in bfloat16."""

    @property
    def shared_gib(self) -> int:
        """Size of /dev/shm."""
        return int(SHARED * self.memory_gib)


# The providers' own tables: "Accelerated computing" at aws.amazon.com/ec2/instance-types, and
# "Accelerator-optimized machine family" at cloud.google.com/compute/docs. They change, and not all
# regions have all types. Within a provider, the memory of a GPU rises, and with it the price.
AWS = (
    Machine("g4dn.2xlarge", 1, "T4", 15, 8, 32, bfloat16=False),
    Machine("g6.2xlarge", 1, "L4", 22, 8, 32),
    Machine("g6.12xlarge", 4, "L4", 22, 48, 192),
    Machine("g6e.2xlarge", 1, "L40S", 44, 8, 64),
    Machine("g6e.12xlarge", 4, "L40S", 44, 48, 384),
    Machine("p5.4xlarge", 1, "H100", 79, 16, 256),
    Machine("p5.48xlarge", 8, "H100", 79, 192, 2048),
    Machine("p5en.48xlarge", 8, "H200", 139, 192, 2048),
)
GCP = (
    Machine("g2-standard-8", 1, "L4", 22, 8, 32),
    Machine("g2-standard-48", 4, "L4", 22, 48, 192),
    Machine("a2-highgpu-1g", 1, "A100", 39, 12, 85),
    Machine("a2-ultragpu-1g", 1, "A100-80GB", 79, 12, 170),
    Machine("a2-ultragpu-4g", 4, "A100-80GB", 79, 48, 680),
    Machine("a3-ultragpu-8g", 8, "H200", 139, 224, 2952),
)
MACHINES = {"aws": AWS, "gcp": GCP}
"""Provider → its types, by the memory of a GPU, then by the number of GPUs."""


def choose(
    provider: str, gpu_gib: float, gpus: int, cpus_per_gpu: float, *, bfloat16: bool = False
) -> Machine:
    """Choose the smallest machine that holds one worker.

    Args:
        provider: `aws` or `gcp`.
        gpu_gib: memory that a worker needs on each of its GPUs.
        gpus: GPUs of one worker, at least 1.
        cpus_per_gpu: CPUs that workers need for each GPU.
        bfloat16: whether they compute in bfloat16.

    Raises:
        InputError: no machine fits.
    """
    for machine in MACHINES[provider]:
        fits = machine.gpu_gib * RESERVE >= gpu_gib and machine.gpus >= gpus
        # One CPU stays free for Ray Data, and the weights pass through the main memory.
        fits = fits and machine.cpus - 1 >= math.ceil(cpus_per_gpu * machine.gpus)
        if fits and machine.memory_gib >= gpu_gib and machine.bfloat16 >= bfloat16:
            return machine
    what = f"no machine of {provider} has {gpus} GPUs of {gpu_gib / RESERVE:.0f} GiB with"
    what += f" {cpus_per_gpu:g} CPUs for each."
    fix = (
        "Shard the model (zero_stage 3, serving.shard), lower micro_batch_size or cpus_per_worker."
    )
    raise InputError("no machine fits:", [Problem("cluster", what, fix)])
