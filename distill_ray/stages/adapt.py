"""ShardSet, teachers → TeacherSet: each teacher trained on the domain, its checkpoints kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.models import ModelSource, TeacherConfig
from distill_ray.engine.job import TrainingSpec
from distill_ray.models.identity import source_identity
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import STUDENT, Teacher, TeacherSet, Weights
from distill_ray.stages.results.training_job import TrainingJob

VERSION = 2


def adapt(run: Run, shards: ShardSet) -> TeacherSet:
    """Train every teacher by its recipes, and the student by its own, or find them trained."""
    cfg = run.cfg
    phases = {t.name: _phases(run, shards, t.name, t.model, t.recipes) for t in cfg.teachers}
    phases[STUDENT] = _phases(run, shards, STUDENT, cfg.student.model, cfg.student.recipes)
    training_jobs = {job.artifact.path: job for chain in phases.values() for job in chain}
    if all(job.artifact.is_complete() for job in training_jobs.values()):
        run.reused("adapt")
    else:
        from distill_ray.stages.training.run import train

        with run.stage("adapt"):
            train(run, [*training_jobs.values()])
    raw = {name: _raw(shards, model) for name, model in _models(run).items()}
    return TeacherSet(
        student=_student(raw[STUDENT], phases[STUDENT]),
        teachers={t.name: _teacher(t, raw[t.name], phases[t.name]) for t in cfg.teachers},
        curves={t.name: [job.curve() for job in phases[t.name]] for t in cfg.teachers},
        artifacts=[job.artifact for job in training_jobs.values()],
    )


def _models(run: Run) -> dict[str, ModelSource]:
    return {STUDENT: run.cfg.student.model, **{t.name: t.model for t in run.cfg.teachers}}


def _raw(shards: ShardSet, source: ModelSource) -> Weights:
    ref = ModelRef.of(source, shards.counts.tokenizer.model_dump())
    return Weights(ref, fingerprint(source_identity(source)))


def _phases(
    run: Run, shards: ShardSet, model: str, source: ModelSource, recipes: Sequence[str]
) -> list[TrainingJob]:
    """One job for each recipe; two models that begin alike share those artifacts."""
    ref = _raw(shards, source).ref
    made_from: Mapping[str, object] = source_identity(source)
    training_jobs = []
    for name in recipes:
        training_job = _training_job(run, shards, model, name, ref, made_from)
        ref = training_job.best_ref()
        made_from = {"phase": training_job.artifact.fingerprint}
        training_jobs.append(training_job)
    return training_jobs


def _training_job(
    run: Run,
    shards: ShardSet,
    model: str,
    name: str,
    ref: ModelRef,
    made_from: Mapping[str, object],
) -> TrainingJob:
    cfg, recipe = run.cfg, run.cfg.adapt.recipes[name]
    identity = {
        "version": VERSION,
        "model": made_from,
        "shard": shards.artifact.fingerprint,
        "recipe": recipe,
        "num_validation_rows": cfg.adapt.num_validation_rows,
        "seed": cfg.seed,
    }
    training_spec = TrainingSpec(
        name=f"{model}, {name}",
        student=ref,
        training=recipe,
        data=data_spec(shards, cfg.seed, cfg.adapt.num_validation_rows),
        lora=recipe.lora if recipe.method == "lora" else None,
        num_checkpoints=recipe.num_checkpoints,
        patience=recipe.early_stopping_patience,
    )
    return TrainingJob(
        stage="adapt",
        spec=training_spec,
        artifact=run.artifact("adapt", name, identity),
        shards=shards.artifact,
        save_steps=cfg.adapt.save_steps,
    )


def _student(raw: Weights, phases: Sequence[TrainingJob]) -> Weights:
    if not phases:
        return raw
    return Weights(phases[-1].best_ref(), phases[-1].artifact.fingerprint)


def _teacher(cfg: TeacherConfig, raw: Weights, phases: Sequence[TrainingJob]) -> Teacher:
    if not phases:
        return Teacher(cfg.name, raw, [raw.ref], [None], 0, raw.fingerprint)
    last = phases[-1]
    losses = last.checkpoint_losses()
    best = min(range(len(losses)), key=lambda i: losses[i])
    if cfg.checkpoint is not None:  # Training may have stopped before it.
        best = min(cfg.checkpoint, len(losses)) - 1
    return Teacher(
        cfg.name, raw, last.checkpoint_refs(), [*losses], best, last.artifact.fingerprint
    )
