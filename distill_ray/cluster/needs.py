"""RunConfig, Plan → how many GPUs a run needs at a time, and how much memory each must have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.run import RunConfig
from distill_ray.config.serving import CachedServing
from distill_ray.core.memory import GIB
from distill_ray.stages.preflight.plan import Plan, Work

TEACHER, STUDENT = "teacher", "student"


@dataclass(frozen=True)
class Group:
    """Equal GPUs for equal work."""

    hosts: str
    """`teacher`: whatever holds a whole teacher, or trains one. `student`: what doesn't."""
    gpus: int
    """At a time, at most."""
    gpus_per_worker: int
    """Of one worker, which can't be spread over machines; at least 1."""
    gpu_gib: float
    """Memory that the plan uses of each."""
    cpus_per_gpu: float
    bfloat16: bool
    """Whether they compute in it."""
    stages: tuple[str, ...]
    """What they are for."""


@dataclass(frozen=True)
class _Ask:
    """One work's GPUs."""

    work: Work
    hosts: str
    gpus: float
    gib: float
    each: float
    cpus: float


def groups(cfg: RunConfig, plan: Plan, *, apart: bool = True) -> list[Group]:
    """The GPUs for teachers, and those for a student whose teacher is elsewhere.

    Args:
        cfg: the run.
        made: its plan.
        apart: whether the student may have a kind of its own.

    Raises:
        InputError: the run uses no GPUs, or memory isn't known.
    """
    if not cfg.cluster.gpus_per_worker:
        fix = "Set it to 1 or more: --set cluster.gpus_per_worker=1."
        problem = Problem("cluster.gpus_per_worker", "is 0, so there is nothing to rent.", fix)
        raise InputError("no cluster can be rendered:", [problem])
    measured = [work for work in plan.work if work.need is not None or work.steps is not None]
    _require_known(measured, plan)
    asks = [_ask(cfg, work, plan) for work in measured]
    if not apart:
        asks = [replace(ask, hosts=TEACHER) for ask in asks]
    kinds = [(hosts, [a for a in asks if a.hosts == hosts]) for hosts in (TEACHER, STUDENT)]
    narrow = any(training.precision == "bfloat16" for _, training in cfg.trainings())
    return [_group(hosts, of_kind, narrow) for hosts, of_kind in kinds if of_kind]


def _ask(cfg: RunConfig, work: Work, plan: Plan) -> _Ask:
    pools = cfg.distill.pools()
    each, cpus = cfg.cluster.gpus_per_worker, cfg.cluster.cpus_per_worker
    if work.beside:
        each, cpus = pools[0].gpus_per_actor, pools[0].cpus_per_actor
    total = work.need.total if work.need is not None else plan.available_bytes or 0
    # Workers that share a GPU share its memory; one that has several computes on the first.
    sharers = max(1, math.floor(1 / each)) if each else 1
    elsewhere = bool(pools) or isinstance(cfg.distill.serving, CachedServing)
    student = work.stage == "distill" and not work.beside and elsewhere
    gib = sharers * total / GIB
    return _Ask(work, STUDENT if student else TEACHER, work.workers * each, gib, each, cpus)


def _group(hosts: str, asks: Sequence[_Ask], narrow: bool) -> Group:
    on_gpus = [ask for ask in asks if ask.each]
    return Group(
        hosts,
        gpus=math.ceil(_at_once(on_gpus)),
        gpus_per_worker=max(1, *(math.ceil(ask.each) for ask in on_gpus)),
        gpu_gib=max(ask.gib for ask in on_gpus),
        cpus_per_gpu=max(ask.cpus / ask.each for ask in on_gpus),
        bfloat16=narrow,
        stages=tuple(dict.fromkeys(ask.work.stage for ask in on_gpus)),
    )


def _at_once(asks: Sequence[_Ask]) -> float:
    """Stages run one after the other; what is beside another work runs together with it."""
    most = 0.0
    for stage in {ask.work.stage for ask in asks}:
        of_stage = [ask for ask in asks if ask.work.stage == stage]
        beside = sum(ask.gpus for ask in of_stage if ask.work.beside)
        most = max(most, beside + max((a.gpus for a in of_stage if not a.work.beside), default=0))
    return most


def _require_known(works: Iterable[Work], plan: Plan) -> None:
    unknown = [work for work in works if work.need is None]
    if unknown and plan.available_bytes is None:
        what = "the size of a hub model isn't known on this machine: " + "; ".join(
            f"{work.stage} ({work.what})" for work in unknown
        )
        fix = "Fetch its config.json (`hf download org/model config.json`), or state the memory."
        problem = Problem("cluster.memory_gib_per_worker", f"{what}.", fix)
        raise InputError("no cluster can be rendered:", [problem])
