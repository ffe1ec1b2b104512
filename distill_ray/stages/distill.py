"""ShardSet, TeacherSet, Ranking → Student: the distillation, and its control without a teacher."""

from __future__ import annotations

from dataclasses import replace

from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.schedule import scheduling
from distill_ray.core.plugins import own_functions
from distill_ray.engine.job import TrainingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.students import Student, Students
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.frozen_student import is_weighted, with_frozen_student
from distill_ray.stages.serving.members import ensemble_of
from distill_ray.stages.serving.targets import with_targets
from distill_ray.stages.training.teaching import control_config, first_of, on_switch_of, teaching_of

VERSION = 3


def distill(run: Run, shards: ShardSet, teachers: TeacherSet, ranking: Ranking) -> Students:
    """Train both, or find them trained: in one group of workers, unless one needs the other."""
    cfg, training = run.cfg.distill, control_config(run)
    data = data_spec(shards, run.cfg.seed, cfg.num_validation_rows)
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "shard": shards.artifact.fingerprint,
        "seed": run.cfg.seed,
        "distill": config_identity(training, has_teacher=False),
    }
    control = TrainingJob(
        stage="distill",
        spec=TrainingSpec(
            name="control",
            student=teachers.student.ref,
            training=training,
            data=data,
            on_switch=on_switch_of(training, data.sequence_length),
            lora=cfg.lora,
            num_checkpoints=cfg.num_checkpoints,
            eval_steps=cfg.eval_steps,
        ),
        artifact=run.artifact("distill", "control", identity),
        shards=shards.artifact,
        save_steps=cfg.save_steps,
        serving=cfg.serving,
    )
    distilled = _with_teachers(run, control, teachers, ranking)
    if distilled.artifact.is_complete() and control.artifact.is_complete():
        run.reused("distill")
    else:
        from distill_ray.stages.training.run import train

        with run.stage("distill"):
            job = distilled
            if is_weighted(job):
                if not control.artifact.is_complete():
                    train(run, [control])
                job = with_frozen_student(run, job, control)
            train(run, [with_targets(run, job, teachers.fingerprints()), control])
    return Students(Student(distilled), Student(control))


def _with_teachers(
    run: Run, control: TrainingJob, teachers: TeacherSet, ranking: Ranking
) -> TrainingJob:
    """The distillation: the control's training, with teachers and on all rows."""
    cfg = run.cfg.distill
    ensemble = ensemble_of(run.cfg, ranking)
    teaching = teaching_of(cfg, teachers, ranking, first_of(cfg, ranking), ensemble)
    own = [cfg.objective.divergence, cfg.objective.weighting, scheduling(cfg.schedule)[0]]
    own += [] if ensemble is None else [ensemble.strategy]
    identity = {
        **control.artifact.identity,
        "teachers": teachers.fingerprints(),
        "checkpoints": {
            name: [ref.temperature for ref in refs] for name, refs in teaching.checkpoints.items()
        },
        "first_teacher": teaching.first_teacher,
        "ranking": teaching.ranking,
        "together": ensemble,
        "distill": config_identity(cfg),
        **own_functions(*own),
    }
    if cfg.objective.weighting is not None:
        identity["frozen_student"] = [control.artifact.fingerprint, cfg.select_checkpoint]
    spec = replace(
        control.spec,
        name="student",
        training=cfg,
        objective=cfg.objective,
        teaching=teaching,
        on_switch=on_switch_of(cfg, control.spec.data.sequence_length),
    )
    return replace(control, spec=spec, artifact=run.artifact("distill", "student", identity))
