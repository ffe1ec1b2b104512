"""ShardSet, TeacherSet, Ranking → Student: the distillation, and its control without a teacher."""

from __future__ import annotations

from collections.abc import Mapping

from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.schedule import scheduling
from distill_ray.config.training import DistillConfig
from distill_ray.core.plugins import own_functions
from distill_ray.engine.job import TeachingSpec, TrainingSpec
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
    control = _control(run, shards, teachers)
    distilled = _distilled(run, shards, teachers, ranking, control)
    if distilled.artifact.is_complete() and control.artifact.is_complete():
        run.reused("distill")
    else:
        with run.stage("distill"):
            _train(run, teachers, distilled, control)
    return Students(Student(distilled), Student(control))


def _train(run: Run, teachers: TeacherSet, distilled: TrainingJob, control: TrainingJob) -> None:
    from distill_ray.stages.training.run import train

    if is_weighted(distilled):
        if not control.artifact.is_complete():
            train(run, [control])
        distilled = with_frozen_student(run, distilled, control)
    train(run, [with_targets(run, distilled, teachers.fingerprints()), control])


def _distilled(
    run: Run, shards: ShardSet, teachers: TeacherSet, ranking: Ranking, control: TrainingJob
) -> TrainingJob:
    cfg = run.cfg.distill
    together = ensemble_of(run.cfg, ranking)
    teaching = teaching_of(cfg, teachers, ranking, first_of(cfg, ranking), together)
    own = [cfg.objective.divergence, cfg.objective.weighting, scheduling(cfg.schedule)[0]]
    own += [] if together is None else [together.strategy]
    identity: dict[str, object] = {
        "teachers": teachers.fingerprints(),
        "checkpoints": {
            n: [r.temperature for r in rungs] for n, rungs in teaching.checkpoints.items()
        },
        "first_teacher": teaching.first_teacher,
        "ranking": teaching.ranking,
        "together": together,
        "distill": config_identity(cfg),
        **own_functions(*own),
    }
    if cfg.objective.weighting is not None:
        identity["frozen_student"] = [control.artifact.fingerprint, cfg.select_checkpoint]
    return _training_job(run, shards, teachers, "student", identity, cfg, teaching)


def _control(run: Run, shards: ShardSet, teachers: TeacherSet) -> TrainingJob:
    training = control_config(run)
    identity = {"distill": config_identity(training, has_teacher=False)}
    return _training_job(run, shards, teachers, "control", identity, training, None)


def _training_job(
    run: Run,
    shards: ShardSet,
    teachers: TeacherSet,
    name: str,
    extra: Mapping[str, object],
    training: DistillConfig,
    teaching: TeachingSpec | None,
) -> TrainingJob:
    cfg = run.cfg
    data = data_spec(shards, cfg.seed, cfg.distill.num_validation_rows)
    training_spec = TrainingSpec(
        name=name,
        student=teachers.student.ref,
        training=training,
        data=data,
        objective=cfg.distill.objective if teaching else None,
        teaching=teaching,
        on_switch=on_switch_of(training, data.sequence_length),
        lora=cfg.distill.lora,
        num_checkpoints=cfg.distill.num_checkpoints,
        eval_steps=cfg.distill.eval_steps,
    )
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "shard": shards.artifact.fingerprint,
        "seed": cfg.seed,
        **extra,
    }
    artifact = run.artifact("distill", name, identity)
    serving = cfg.distill.serving
    return TrainingJob(
        "distill", training_spec, artifact, shards.artifact, cfg.distill.save_steps, serving
    )
