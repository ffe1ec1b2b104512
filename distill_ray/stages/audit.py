"""ShardSet, TeacherSet → AuditTable: what each teacher knows, and how well calibrated it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.models.tokenizers import tokenizer_of
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import (
    AUDIT,
    INITIAL,
    AuditedModel,
    AuditRecord,
    AuditTable,
    initial,
)
from distill_ray.stages.results.model_scores import ModelToScore, ScoringResult
from distill_ray.stages.results.question_metrics import AuditedMetrics
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.scoring.metrics import MetricOptions, drop, scaling, task_metrics, text_nll
from distill_ray.stages.scoring.run import score_models
from distill_ray.stages.sharding.vocabulary import vocabulary_fits

VERSION = 2


def audit(run: Run, shards: ShardSet, teachers: TeacherSet) -> AuditTable:
    """Score every teacher's best checkpoint on held-out rows of the validation split.

    Raises:
        RuntimeError: the initial student can't be scored; a teacher that can't is in `failed`.
    """
    cfg = run.cfg.audit
    models = [initial(teachers)] + [
        ModelToScore(t.name, t.serving.ref, t.serving.fingerprint)
        for t in teachers.teachers.values()
    ]
    scored = score_models(run, shards, "audit", "validation", models, cfg.num_text_rows)
    scored.require(INITIAL)
    failed = {**teachers.failed, **scored.failed}
    identity = {
        "version": VERSION,
        "audit": config_identity(cfg),
        "scores": {name: model.artifact.fingerprint for name, model in scored.scores.items()},
        "failed": failed,
    }
    artifact = run.artifact("audit", "", identity)
    if not artifact.is_complete():
        with artifact.building() as building:
            fits = vocabulary_fits(run, shards)
            rows = {name: _row(run, shards, scored, name, fits) for name in scored.scores}
            AuditRecord(rows=rows, failed=failed).write(building, AUDIT)
            building.counts |= {"teachers": len(rows) - 1, "failed": len(failed)}
    return AuditTable(artifact, scored.scores)


def _row(
    run: Run, shards: ShardSet, scored: ScoringResult, name: str, fits: Mapping[str, float]
) -> AuditedModel:
    """A model's metrics on text, tasks and shifted sets."""
    teacher = None if name == INITIAL else run.cfg.teacher(name)
    if teacher is None:
        tokenizer = shards.tokenizer()
    elif teacher.tokenizer is None and teacher.model.init is not None:
        tokenizer = None  # A model of random weights has none of its own.
    else:
        tokenizer = tokenizer_of(teacher.tokenizer or teacher.model)
    model, cfg = scored.scores[name], run.cfg.audit
    options = MetricOptions(cfg.num_bins, cfg.num_bootstrap, cfg.confidence)
    tasks = [task.name for task in run.cfg.tasks]
    fitted = scaling(model, tasks, options)
    sets = {
        name: AuditedMetrics(
            **dict(task_metrics(model, name, **asdict(options))), scaled=fitted.sets.get(name)
        )
        for name in model.sets
    }
    # Shifted sets are called `<task>.<shifted set>`.
    pairs = {name: name.partition(".")[0] for name in sets if "." in name}
    return AuditedModel(
        parameters=model.parameters,
        size_ratio=model.parameters / scored.scores[INITIAL].parameters,
        capacity=model.capacity,
        vocabulary_fit=fits.get(name, 1.0),
        chat_template=None if tokenizer is None else tokenizer.chat_template is not None,
        text=model.text,
        text_nll=text_nll(model, {c.name: c.kind for c in run.cfg.corpora.sources}, options),
        full_ece=model.full_ece,
        temperature=fitted.temperature,
        tasks={name: row for name, row in sets.items() if name in tasks},
        shifted={name: row for name, row in sets.items() if name not in tasks},
        drops={n: drop(model, task, n, options) for n, task in pairs.items() if task in sets},
    )
