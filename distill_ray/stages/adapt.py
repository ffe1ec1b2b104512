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
    student, last = _base_model(shards, cfg.student.model), phases[STUDENT][-1:]
    return TeacherSet(
        student=Weights(last[0].best_ref(), last[0].artifact.fingerprint) if last else student,
        teachers={
            t.name: _teacher(t, _base_model(shards, t.model), phases[t.name]) for t in cfg.teachers
        },
        curves={t.name: [job.curve() for job in phases[t.name]] for t in cfg.teachers},
        artifacts=[job.artifact for job in training_jobs.values()],
    )


def _base_model(shards: ShardSet, source: ModelSource) -> Weights:
    """A model before any recipe."""
    ref = ModelRef.of(source, shards.counts.tokenizer.model_dump())
    return Weights(ref, fingerprint(source_identity(source)))


def _phases(
    run: Run, shards: ShardSet, model: str, source: ModelSource, recipes: Sequence[str]
) -> list[TrainingJob]:
    """One job for each recipe; two models that begin alike share those artifacts."""
    cfg, ref = run.cfg, _base_model(shards, source).ref
    made_from: Mapping[str, object] = source_identity(source)
    training_jobs = []
    for name in recipes:
        recipe = cfg.adapt.recipes[name]
        identity = {
            "version": VERSION,
            "model": made_from,
            "shard": shards.artifact.fingerprint,
            "recipe": recipe,
            "num_validation_rows": cfg.adapt.num_validation_rows,
            "seed": cfg.seed,
        }
        training_job = TrainingJob(
            stage="adapt",
            spec=TrainingSpec(
                name=f"{model}, {name}",
                student=ref,
                training=recipe,
                data=data_spec(shards, cfg.seed, cfg.adapt.num_validation_rows),
                lora=recipe.lora if recipe.method == "lora" else None,
                num_checkpoints=recipe.num_checkpoints,
                patience=recipe.early_stopping_patience,
            ),
            artifact=run.artifact("adapt", name, identity),
            shards=shards.artifact,
            save_steps=cfg.adapt.save_steps,
        )
        training_jobs.append(training_job)
        ref, made_from = training_job.best_ref(), {"phase": training_job.artifact.fingerprint}
    return training_jobs


def _teacher(cfg: TeacherConfig, base_model: Weights, phases: Sequence[TrainingJob]) -> Teacher:
    """A teacher with the checkpoints of its last recipe, or with its base model alone."""
    if not phases:
        return Teacher(cfg.name, base_model, [base_model.ref], [None], 0, base_model.fingerprint)
    last = phases[-1]
    losses = last.checkpoint_losses()
    best = min(range(len(losses)), key=lambda i: losses[i])
    if cfg.checkpoint is not None:  # Training may have stopped before it.
        best = min(cfg.checkpoint, len(losses)) - 1
    return Teacher(
        cfg.name, base_model, last.checkpoint_refs(), [*losses], best, last.artifact.fingerprint
    )
