"""How many GPUs a run needs at a time, and how much memory each must have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.config.serving import CachedServing
from distill_ray.core.memory import GIB
from distill_ray.stages.preflight.plan import Plan, Work

TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class Group:
    """Equal GPUs, for works with similar needs."""

    hosts: str
    """`teacher` for works that hold or train a whole teacher, `student` for the others."""
    gpus: int
    """The most GPUs in use at a time."""
    gpus_per_worker: int
    """GPUs of one worker, which can't be spread over machines; at least 1."""
    gpu_gib: float
    """Memory that the plan uses on each GPU."""
    cpus_per_gpu: float
    bfloat16: bool
    """Whether a training computes in bfloat16."""
    stages: tuple[str, ...]
    """Stages that use these GPUs."""


@dataclass(frozen=True)
class _Request:
    """The GPUs that one work needs."""

    work: Work
    hosts: str
    gpus: float
    gib: float
    gpus_per_worker: float
    cpus_per_worker: float


def groups(cfg: RunConfig, plan: Plan, *, apart: bool = True) -> list[Group]:
    """Group a run's GPUs: those for teachers, and those for a student whose teacher is elsewhere.

    Args:
        cfg: the run.
        plan: its plan.
        apart: whether the student may have a group of its own.

    Raises:
        InputError: the run uses no GPUs, or memory isn't known.
    """
    if not cfg.cluster.gpus_per_worker:
        fix = "Set it to 1 or more: --set cluster.gpus_per_worker=1."
        problem = Problem("cluster.gpus_per_worker", "is 0, so there is nothing to rent.", fix)
        raise InputError("no cluster can be rendered:", [problem])
    measured = [work for work in plan.work if work.need is not None or work.steps is not None]
    unknown = [work for work in measured if work.need is None]
    if unknown and plan.available_bytes is None:
        what = "the size of a hub model isn't known on this machine: " + "; ".join(
            f"{work.stage} ({work.what})" for work in unknown
        )
        fix = "Fetch its config.json (`hf download org/model config.json`), or state the memory."
        problem = Problem("cluster.memory_gib_per_worker", f"{what}.", fix)
        raise InputError("no cluster can be rendered:", [problem])
    requests = [_request(cfg, work, plan) for work in measured]
    if not apart:
        requests = [replace(request, hosts=TEACHER) for request in requests]
    bfloat16 = any(training.precision == "bfloat16" for _, training in cfg.trainings())
    result = []
    for hosts in [h for h in (TEACHER, STUDENT) if any(r.hosts == h for r in requests)]:
        on_gpus = [r for r in requests if r.hosts == hosts and r.gpus_per_worker]
        group = Group(
            hosts,
            gpus=math.ceil(_most_at_a_time(on_gpus)),
            gpus_per_worker=max(1, *(math.ceil(r.gpus_per_worker) for r in on_gpus)),
            gpu_gib=max(r.gib for r in on_gpus),
            cpus_per_gpu=max(r.cpus_per_worker / r.gpus_per_worker for r in on_gpus),
            bfloat16=bfloat16,
            stages=tuple(dict.fromkeys(r.work.stage for r in on_gpus)),
        )
        result.append(group)
    return result


def _request(cfg: RunConfig, work: Work, plan: Plan) -> _Request:
    """What one work of the plan needs."""
    pools = cfg.distill.pools()
    gpus, cpus = cfg.cluster.gpus_per_worker, cfg.cluster.cpus_per_worker
    if work.beside:
        gpus, cpus = pools[0].gpus_per_actor, pools[0].cpus_per_actor
    total = work.need.total if work.need is not None else plan.available_bytes or 0
    # Workers that share a GPU share its memory; one that has several computes on the first.
    sharers = max(1, math.floor(1 / gpus)) if gpus else 1
    elsewhere = bool(pools) or isinstance(cfg.distill.serving, CachedServing)
    student = work.stage == "distill" and not work.beside and elsewhere
    gib = sharers * total / GIB
    return _Request(work, STUDENT if student else TEACHER, work.workers * gpus, gib, gpus, cpus)


def _most_at_a_time(requests: Sequence[_Request]) -> float:
    """GPUs of the hungriest stage, whose works follow each other but for those beside another."""
    most = 0.0
    for stage in {request.work.stage for request in requests}:
        of_stage = [request for request in requests if request.work.stage == stage]
        beside = sum(request.gpus for request in of_stage if request.work.beside)
        most = max(most, beside + max((r.gpus for r in of_stage if not r.work.beside), default=0))
    return most
