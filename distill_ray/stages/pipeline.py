"""The whole route. Read this first."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import adapt
from distill_ray.stages.audit import audit
from distill_ray.stages.distill import distill
from distill_ray.stages.evaluate import evaluate
from distill_ray.stages.gain import proven
from distill_ray.stages.probe import probe
from distill_ray.stages.rank import rank
from distill_ray.stages.report import Report, report
from distill_ray.stages.shard import shard

STAGES = ("shard", "adapt", "audit", "probe", "rank", "distill", "evaluate", "report")


def route(run: Run) -> Iterator[Any]:
    """From corpora and candidate teachers to a student and the reasons for it, stage by stage.

    Each stage reads artifacts and leaves one; what is there already is reused, so an interrupted
    route goes on where it stopped. Yields each stage's result, in the order of STAGES.
    """
    yield (shards := shard(run))
    yield (teachers := proven(run, shards, adapt(run, shards)))
    yield (audited := audit(run, shards, teachers))
    yield (probed := probe(run, shards, teachers, audited))
    yield (ranking := rank(run, audited, probed))
    yield (students := distill(run, shards, teachers, ranking))
    yield (scores := evaluate(run, shards, teachers, students))
    yield report(run, shards, teachers, audited, probed, ranking, students, scores)


def upto(run: Run, stage: str) -> Any:
    """The result of a stage; the stages before it are run or reused, those behind it are not."""
    return next(result for name, result in zip(STAGES, route(run)) if name == stage)


def pipeline(run: Run) -> Report:
    """The whole route."""
    return cast(Report, upto(run, STAGES[-1]))
