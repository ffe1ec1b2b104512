"""What this machine has, and whether the workers fit. Imports neither Ray nor torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import Problem


@dataclass(frozen=True)
class Machine:
    """Resources of this machine."""

    cpus: int
    gpus: int
    memory_bytes: int


def machine() -> Machine:
    """Count the processors, NVIDIA accelerators and memory that this process may use."""
    gpus = len([p for p in Path("/dev").glob("nvidia[0-9]*") if p.name[6:].isdigit()])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))  # A container's limit.
    return Machine(len(os.sched_getaffinity(0)), gpus, memory)


def capacity_problems(cfg: ClusterConfig, cpus: float, gpus: float) -> list[Problem]:
    """What the workers ask for beyond `cpus` and `gpus`."""
    problems = []
    for unit, each, there in (
        ("CPU", cfg.cpus_per_worker, cpus),
        ("GPU", cfg.gpus_per_worker, gpus),
    ):
        if cfg.num_workers * each > there:
            what = (
                f"{cfg.num_workers} workers x {each:g} {unit} = {cfg.num_workers * each:g} {unit}s,"
                f" the cluster has {there:g}."
            )
            fit = int(there // each)
            fix = f"At most {fit} such workers fit." if fit else f"Set {unit.lower()}s_per_worker."
            problems.append(Problem("cluster.num_workers", what, fix))
    return problems
