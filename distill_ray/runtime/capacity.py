"""This machine's resources, and whether the workers fit. Imports neither Ray nor torch."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import Problem
from distill_ray.config.serving import PoolServing


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


def capacity_problems(
    cfg: ClusterConfig, cpus: float, gpus: float, pools: Sequence[PoolServing] = ()
) -> list[Problem]:
    """Demands of the workers and the teachers' actors that exceed `cpus` and `gpus`.

    An elastic number of workers counts at its minimum.
    """
    problems, workers = [], cfg.fewest_workers
    for unit, each, available in (
        ("CPU", cfg.cpus_per_worker, cpus),
        ("GPU", cfg.gpus_per_worker, gpus),
    ):
        if workers * each > available:
            what = (
                f"{workers} workers x {each:g} {unit} = {workers * each:g} {unit}s,"
                f" the cluster has {available:g}."
            )
            fit = int(available // each)
            fix = f"At most {fit} such workers fit." if fit else f"Set {unit.lower()}s_per_worker."
            where = "cluster.min_workers" if cfg.min_workers else "cluster.num_workers"
            problems.append(Problem(where, what, fix))
        else:
            problems += _actor_demand(workers, each, unit, available, pools)
    return problems


def actor_problems(cfg: ClusterConfig, actors: int, cpus: float, gpus: float) -> list[Problem]:
    """Demands of actors that compute targets: as large as a worker each, before the workers run."""
    as_workers = cfg.model_copy(update={"num_workers": actors, "min_workers": None})
    where = "distill.serving.num_actors"
    return [replace(problem, where=where) for problem in capacity_problems(as_workers, cpus, gpus)]


def _actor_demand(
    workers: int, each: float, unit: str, available: float, pools: Sequence[PoolServing]
) -> Iterator[Problem]:
    """Demands of actors that exceed what the workers leave free."""
    per_actor = f"{unit.lower()}s_per_actor"
    shares = [(pool.num_actors, float(getattr(pool, per_actor))) for pool in pools]
    free, demand = available - workers * each, sum(count * share for count, share in shares)
    if demand <= free + 1e-6:
        return
    parts = [(workers, "worker", each), *((count, "actor", share) for count, share in shares)]
    terms = [f"{n} {who}{'s' * (n > 1)} x {share:g} {unit}" for n, who, share in parts if share]
    total = f"{workers * each + demand:g} {unit}s, the cluster has {available:g}."
    fit = int(free // max(share for _, share in shares))
    fix = f"Lower cluster.num_workers or {per_actor}."
    fix = f"The workers leave room for {fit}." if fit else fix
    yield Problem("distill.serving.num_actors", f"{' + '.join(terms)} = {total}", fix)
