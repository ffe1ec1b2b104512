"""ShardSet, teachers → TeacherSet: each teacher trained on the domain, its checkpoints kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.models import ModelSource, StudentConfig, TeacherConfig
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
    jobs_of = {t.name: _training_jobs(run, shards, t.name, t) for t in cfg.teachers}
    jobs_of[STUDENT] = _training_jobs(run, shards, STUDENT, cfg.student)
    # Two models that begin alike share the artifacts of those recipes.
    training_jobs = {job.artifact.path: job for jobs in jobs_of.values() for job in jobs}
    if all(job.artifact.is_complete() for job in training_jobs.values()):
        run.reused("adapt")
    else:
        from distill_ray.stages.training.run import train

        with run.stage("adapt"):
            train(run, [*training_jobs.values()])
    student, last = _base_model(shards, cfg.student.model), jobs_of[STUDENT][-1:]
    return TeacherSet(
        student=Weights(last[0].best_ref(), last[0].artifact.fingerprint) if last else student,
        teachers={
            t.name: _teacher(t, _base_model(shards, t.model), jobs_of[t.name]) for t in cfg.teachers
        },
        curves={t.name: [job.curve() for job in jobs_of[t.name]] for t in cfg.teachers},
        artifacts=[job.artifact for job in training_jobs.values()],
    )


def _base_model(shards: ShardSet, source: ModelSource) -> Weights:
    """A model before any recipe."""
    ref = ModelRef.of(source, shards.counts.tokenizer.model_dump())
    return Weights(ref, fingerprint(source_identity(source)))


def _training_jobs(
    run: Run, shards: ShardSet, name: str, model: StudentConfig | TeacherConfig
) -> list[TrainingJob]:
    """One job for each of a model's recipes, each beginning where the one before it ended."""
    cfg, ref = run.cfg, _base_model(shards, model.model).ref
    made_from: Mapping[str, object] = source_identity(model.model)
    training_jobs = []
    for recipe_name in model.recipes:
        recipe = cfg.adapt.recipes[recipe_name]
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
                name=f"{name}, {recipe_name}",
                student=ref,
                training=recipe,
                data=data_spec(shards, cfg.seed, cfg.adapt.num_validation_rows),
                lora=recipe.lora if recipe.method == "lora" else None,
                num_checkpoints=recipe.num_checkpoints,
                patience=recipe.early_stopping_patience,
            ),
            artifact=run.artifact("adapt", recipe_name, identity),
            shards=shards.artifact,
            save_steps=cfg.adapt.save_steps,
        )
        training_jobs.append(training_job)
        ref, made_from = training_job.best_ref(), {"phase": training_job.artifact.fingerprint}
    return training_jobs


def _teacher(cfg: TeacherConfig, base_model: Weights, jobs: Sequence[TrainingJob]) -> Teacher:
    """A teacher with the checkpoints of its last recipe, or with its base model alone."""
    if not jobs:
        return Teacher(cfg.name, base_model, [base_model.ref], [None], 0, base_model.fingerprint)
    last = jobs[-1]
    losses = last.checkpoint_losses()
    best = min(range(len(losses)), key=lambda i: losses[i])
    if cfg.checkpoint is not None:  # Training may have stopped before it.
        best = min(cfg.checkpoint, len(losses)) - 1
    return Teacher(
        cfg.name, base_model, last.checkpoint_refs(), [*losses], best, last.artifact.fingerprint
    )
