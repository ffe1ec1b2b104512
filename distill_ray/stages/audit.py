"""ShardSet, TeacherSet → AuditTable: what each teacher knows, and how far it can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from distill_ray.models.tokenizers import tokenizer_of
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import INITIAL, AuditTable, initial
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore, ScoringResult
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.scoring.metrics import MetricOptions, drop, scaling, task_metrics, text_nll
from distill_ray.stages.scoring.run import score_models
from distill_ray.stages.sharding.vocabulary import vocabulary_fits

VERSION = 2


def audit(run: Run, shards: ShardSet, teachers: TeacherSet) -> AuditTable:
    """Score every teacher's best checkpoint on held-out rows of the validation split.

    Raises:
        RuntimeError: the initial student can't be scored; a teacher that can't is left out.
    """
    cfg = run.cfg.audit
    subjects = [initial(teachers)] + [
        ModelToScore(t.name, t.serving.ref, t.serving.fingerprint)
        for t in teachers.teachers.values()
    ]
    scored = score_models(run, shards, "audit", "validation", subjects, cfg.text_rows)
    scored.require(INITIAL)
    failed = {**teachers.failed, **scored.failed}
    identity = {
        "version": VERSION,
        "audit": cfg.model_dump(mode="json", include={"bins", "bootstrap", "confidence"}),
        "sheets": {name: sheet.artifact.fingerprint for name, sheet in scored.sheets.items()},
        "failed": failed,
    }
    artifact = run.artifact("audit", "", identity)
    if not artifact.is_complete():
        with artifact.building() as building:
            rows = _rows(run, shards, scored)
            building.write_json("audit.json", {"rows": rows, "failed": failed})
            building.counts |= {"teachers": len(rows) - 1, "failed": len(failed)}
    return AuditTable(artifact, scored.sheets)


def _rows(run: Run, shards: ShardSet, scored: ScoringResult) -> dict[str, dict[str, Any]]:
    fits = vocabulary_fits(run, shards)
    student = scored.sheets[INITIAL].parameters
    return {
        name: {
            "parameters": sheet.parameters,
            "size_ratio": sheet.parameters / student,
            "capacity": sheet.capacity,
            "vocabulary_fit": fits.get(name, 1.0),
            "chat_template": _has_template(run, shards, name),
            **metrics_of(run, sheet),
        }
        for name, sheet in scored.sheets.items()
    }


def _has_template(run: Run, shards: ShardSet, name: str) -> bool | None:
    """Whether a model's own tokenizer has a chat template; None where it has no tokenizer."""
    if name == INITIAL:
        return shards.tokenizer().chat_template is not None
    teacher = run.cfg.teacher(name)
    if teacher.tokenizer is None and teacher.model.init is not None:
        return None
    return tokenizer_of(teacher.tokenizer or teacher.model).chat_template is not None


def metrics_of(run: Run, sheet: ModelScores) -> dict[str, Any]:
    """A model's figures on text, tasks and shifted sets."""
    cfg = run.cfg.audit
    figures = MetricOptions(cfg.bins, cfg.bootstrap, cfg.confidence)
    tasks = [task.name for task in run.cfg.tasks]
    fitted = scaling(sheet, tasks, figures)
    sets = {
        name: {
            **asdict(task_metrics(sheet, name, **asdict(figures))),
            "scaled": asdict(fitted.sets[name]) if name in fitted.sets else None,
        }
        for name in sheet.sets
    }
    return {
        "text": sheet.text,
        "text_nll": _text(run, sheet, figures),
        "full_ece": sheet.full_ece,
        "temperature": fitted.temperature,
        "tasks": {name: row for name, row in sets.items() if name in tasks},
        "shifted": {name: row for name, row in sets.items() if name not in tasks},
        "drops": _drops(sheet, sets, figures),
    }


def _text(run: Run, sheet: ModelScores, figures: MetricOptions) -> dict[str, Any]:
    corpora = {corpus.name: corpus.kind for corpus in run.cfg.corpora.sources}
    return {
        what: {name: asdict(nll) for name, nll in found.items()}
        for what, found in text_nll(sheet, corpora, figures).items()
    }


def _drops(sheet: ModelScores, sets: Mapping[str, Any], figures: MetricOptions) -> dict[str, Any]:
    """Shifted set → what is lost on it; sets are called `<task>.<shifted set>`."""
    pairs = {name: name.partition(".")[0] for name in sets if "." in name}
    return {
        name: {f: asdict(i) for f, i in drop(sheet, task, name, figures).items()}
        for name, task in pairs.items()
        if task in sets
    }
