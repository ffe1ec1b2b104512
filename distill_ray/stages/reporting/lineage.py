"""What a report rests on: every artifact behind it, found by following fingerprints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.manifest import Manifest, has_manifest
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import Storage
from distill_ray.stages import STAGES
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.final_scores import Scores
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.report_page import LineageEntry
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.students import Students
from distill_ray.stages.results.teacher_set import TeacherSet

BESIDE = {"adaptation-gain": "adapt", "estimates": "probe"}
"""Kind of artifact that isn't called by its stage → the stage."""


@dataclass(frozen=True)
class Inputs:
    """All that the route has made before its report."""

    run: Run
    shards: ShardSet
    teachers: TeacherSet
    audited: AuditTable
    probed: ProbeTable
    ranking: Ranking
    students: Students
    scores: Scores

    def fingerprints(self) -> dict[str, object]:
        """Identity of each."""
        return {
            "shard": self.shards.artifact.fingerprint,
            "teachers": self.teachers.fingerprints(),
            "audit": self.audited.artifact.fingerprint,
            "probe": [self.probed.fingerprints(), [asdict(trial) for trial in self.probed.failed]],
            "rank": self.ranking.artifact.fingerprint,
            "student": self.students.distilled.fingerprint,
            "control": self.students.control.fingerprint,
            "evaluate": self.scores.artifact.fingerprint,
        }


def lineage(inputs: Inputs) -> list[LineageEntry]:
    """Every artifact that the report rests on, in the order of the stages."""
    paths = [
        inputs.shards.artifact.path,
        *(path for a in inputs.teachers.artifacts for path in _with_scores(a, "audit-scores")),
        *_with_scores(inputs.audited.artifact, "audit-scores"),
        *(artifact.path for artifact in inputs.probed.artifacts),
        inputs.ranking.artifact.path,
        *(artifact.path for artifact in inputs.students.artifacts),
        *_with_scores(inputs.scores.artifact, "evaluate-scores"),
    ]
    entries = []
    for path in dict.fromkeys(paths):  # Once each: models of equal weights share scores.
        folder = inputs.run.storage.sub(path)
        if not has_manifest(folder):  # A teacher that failed left none.
            continue
        manifest = Manifest.of(folder)
        entries.append(
            LineageEntry(
                stage=BESIDE.get(manifest.kind, manifest.kind.partition("-")[0]),
                kind=manifest.kind,
                key=manifest.key,
                fingerprint=manifest.fingerprint,
                path=path,
                wall_s=manifest.wall_s,
                created=manifest.created,
                counts={k: v for k, v in manifest.counts.items() if not isinstance(v, dict)},
                versions=manifest.versions,
            )
        )
    return entries


def wall_by_stage(entries: list[LineageEntry]) -> dict[str, float]:
    """Stage → seconds that the work on its artifacts took, added up."""
    return {s: sum(e.wall_s for e in entries if e.stage == s) for s in STAGES if s != "report"}


def recipe_fingerprints(storage: Storage, last: str) -> list[str]:
    """Fingerprints of a teacher's recipes, first to last; none for one not trained here."""
    folders = {name.rpartition("-")[2]: name for name in storage.children("adapt")}
    chain: list[str] = []
    phase: str | None = last
    while phase in folders:
        chain.insert(0, phase)
        manifest = Manifest.of(storage.sub(f"adapt/{folders[phase]}"))
        phase = manifest.identity["model"].get("phase")
    return chain


def _with_scores(artifact: Artifact, kind: str) -> Iterator[str]:
    """Path of an artifact, after those of the models' scores behind it, if there are any."""
    scores: Mapping[str, str | list[str]] = artifact.identity.get("scores", {})
    for fingerprints in scores.values():  # A gain has those of two models.
        for fingerprint in [fingerprints] if isinstance(fingerprints, str) else fingerprints:
            yield f"{kind}/{fingerprint}"
    yield artifact.path
