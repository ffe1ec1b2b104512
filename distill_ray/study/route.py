"""Run → Route: what a study has of a domain before its full trainings."""

from __future__ import annotations

from dataclasses import dataclass

from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet, adapt
from distill_ray.stages.audit import AuditTable, audit
from distill_ray.stages.gain import proven
from distill_ray.stages.probe import ProbeTable, probe
from distill_ray.stages.rank import Ranking, rank
from distill_ray.stages.shard import ShardSet, shard

FIRST_SEED = 500
"""Full trainings read the rows in other orders than the probes, whose seeds begin at 0."""


@dataclass(frozen=True)
class Route:
    """The route up to `rank`."""

    shards: ShardSet
    teachers: TeacherSet
    audited: AuditTable
    probed: ProbeTable
    ranking: Ranking


def route(run: Run) -> Route:
    """Compute what is missing of it."""
    shards = shard(run)
    teachers = proven(run, shards, adapt(run, shards))
    audited = audit(run, shards, teachers)
    probed = probe(run, shards, teachers, audited)
    return Route(shards, teachers, audited, probed, rank(run, audited, probed))


def order_of(run: Run, seed: int) -> int:
    """Seed of the order of the rows of a full training."""
    return run.cfg.seed * 1000 + FIRST_SEED + seed
