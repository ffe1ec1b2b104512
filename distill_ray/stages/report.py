"""All artifacts → Report: which teacher, why, and was it worth it? One page that needs no network.

The same content three times: HTML with charts, Markdown and JSON; beside them the student.
"""

from __future__ import annotations

from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.runtime.run import Run
from distill_ray.stages.reporting.build import build_report
from distill_ray.stages.reporting.lineage import Inputs
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.final_scores import Scores
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.report_page import Report
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.students import Students
from distill_ray.stages.results.teacher_set import TeacherSet

VERSION = 3


def report(
    run: Run,
    shards: ShardSet,
    teachers: TeacherSet,
    audited: AuditTable,
    probed: ProbeTable,
    ranking: Ranking,
    students: Students,
    scores: Scores,
) -> Report:
    """Write the report, or find it written."""
    inputs = Inputs(run, shards, teachers, audited, probed, ranking, students, scores)
    # The page shows the whole config, also what changes no result of the other stages.
    config = config_identity(run.cfg, whole_sections=True)
    identity = {"version": VERSION, "config": config, **inputs.fingerprints()}
    artifact = run.artifact("report", "", identity)
    if artifact.is_complete():
        run.reused("report")
    else:
        with run.stage("report"), artifact.building() as building:
            build_report(inputs, artifact, building)
    return Report(artifact)
