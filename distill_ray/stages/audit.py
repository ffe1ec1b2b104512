"""ShardSet, TeacherSet → AuditTable: what each teacher knows, and how far it can be believed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distill_ray.config.fingerprint import fingerprint
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Result
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet, source_identity
from distill_ray.stages.scoring import Subject, sheets, task_metrics
from distill_ray.stages.shard import ShardSet, vocabulary_fits

VERSION = 1
INITIAL = "initial-student"


@dataclass(frozen=True)
class AuditTable(Result):
    """Figures of every teacher on the validation split, and of the untrained student."""

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Model → `parameters`, `size_ratio`, `vocabulary_fit`, `text`, `tasks`, `shifted`."""
        return dict(self.artifact.read_json("audit.json"))


def student_ref(run: Run, shards: ShardSet) -> ModelRef:
    """The student before any training."""
    return ModelRef.of(run.cfg.student.model, shards.counts["tokenizer"])


def student_identity(run: Run) -> str:
    """Fingerprint of the student's weights before any training."""
    return fingerprint(source_identity(run.cfg.student.model))


def audit(run: Run, shards: ShardSet, teachers: TeacherSet) -> AuditTable:
    """Score every teacher's best checkpoint on held-out rows of the validation split."""
    cfg = run.cfg.audit
    subjects = [Subject(INITIAL, student_ref(run, shards), student_identity(run))]
    subjects += [
        Subject(t.name, t.ladder[-1], f"{t.fingerprint}/{t.best}")
        for t in teachers.teachers.values()
    ]
    scored = sheets(run, shards, "audit", "validation", subjects, cfg.text_rows)
    identity = {
        "version": VERSION,
        "audit": cfg,
        "sheets": {name: sheet.artifact.fingerprint for name, sheet in scored.items()},
    }
    artifact = run.artifact("audit", "", identity)
    if not artifact.done():
        with artifact.building() as building:
            fits = vocabulary_fits(run, shards)
            rows = {n: _row(run, sheet, fits.get(n, 1.0)) for n, sheet in scored.items()}
            student = rows[INITIAL]["parameters"]
            for row in rows.values():
                row["size_ratio"] = row["parameters"] / student
            building.write_json("audit.json", rows)
            building.counts |= {"teachers": len(rows) - 1}
    return AuditTable(artifact)


def _row(run: Run, sheet: Any, fit: float) -> dict[str, Any]:
    cfg = run.cfg.audit
    figures = {
        name: asdict(
            task_metrics(
                sheet, name, bins=cfg.bins, resamples=cfg.bootstrap, confidence=cfg.confidence
            )
        )
        for name in sheet.sets
    }
    tasks = {task.name for task in run.cfg.tasks}
    return {
        "parameters": sheet.parameters,
        "vocabulary_fit": fit,
        "text": sheet.text,
        "tasks": {name: row for name, row in figures.items() if name in tasks},
        "shifted": {name: row for name, row in figures.items() if name not in tasks},
    }
