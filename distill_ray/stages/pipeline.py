"""The whole route. Read this first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distill_ray.runtime.run import Run
from distill_ray.stages import STAGES
from distill_ray.stages.adapt import adapt
from distill_ray.stages.audit import audit
from distill_ray.stages.distill import distill
from distill_ray.stages.evaluate import evaluate
from distill_ray.stages.probe import probe
from distill_ray.stages.rank import rank
from distill_ray.stages.report import report
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.selection.adaptation_gain import keep_if_improved
from distill_ray.stages.shard import shard


def pipeline(run: Run) -> Iterator[Any]:
    """From corpora and candidate teachers to a student and the reasons for it, stage by stage.

    Each stage reads artifacts and leaves one. An artifact that exists is reused, so an interrupted
    route resumes where it stopped. Yields each stage's result, in the order of `STAGES`.
    """
    yield (shards := shard(run))
    yield (teachers := keep_if_improved(run, shards, adapt(run, shards)))
    yield (audited := audit(run, shards, teachers))
    yield (probed := probe(run, shards, teachers, audited))
    yield (ranking := rank(run, audited, probed))
    yield (students := distill(run, shards, teachers, ranking))
    yield (scores := evaluate(run, shards, teachers, students))
    yield report(run, shards, teachers, audited, probed, ranking, students, scores)


def run_until(run: Run, stage: str) -> Any:
    """Run or reuse the stages up to this one, and return its result."""
    for name, result in zip(STAGES, pipeline(run)):
        run.raise_if_interrupted()
        if name == stage:
            return result
    raise ValueError(f"no stage {stage!r}")


@dataclass(frozen=True)
class Selection:
    """Results of the stages up to `rank`: all that is known before the student is distilled."""

    shards: ShardSet
    teachers: TeacherSet
    audited: AuditTable
    probed: ProbeTable
    ranking: Ranking


def select_teachers(run: Run) -> Selection:
    """Run or reuse the stages up to `rank`."""
    return Selection(*islice(pipeline(run), 5))
