"""ShardSet, TeacherSet → full distillations: one student for each teacher and seed, scored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill_ray.engine.job import Job, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import Teacher, TeacherSet
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet, held_out_questions
from distill_ray.stages.trials import Trial, Trials, run_left

VERSION = 1
FIRST_SEED = 500
"""Full distillations read the rows in other orders than the probes, whose seeds begin at 0."""
NOT_HERE: dict[str, Any] = {
    **dict.fromkeys(("serving", "schedule", "reassess", "validate_every", "save_every"), True),
    "zero_stage": True,
    "offload": True,
}
"""Keys of `distill` that say nothing here: one teacher from start to end, on one worker."""


def distil_fully(
    run: Run, shards: ShardSet, teachers: TeacherSet, seeds: Sequence[int], rungs: int
) -> Trials:
    """Distil the student from every teacher alone with the whole budget, and score it on test.

    Args:
        run: the run; its `distill` section says for how long, on what and towards what.
        shards: its rows.
        teachers: each teaches with the checkpoint that is audited and probed.
        seeds: orders of the rows, each the same for every teacher.
        rungs: points of each curve.
    """
    tasks = {task.name for task in run.cfg.tasks}
    questions = [q for q in held_out_questions(shards, "test") if q.name in tasks]
    trials = [
        _trial(run, shards, teachers, teacher, seed, rungs)
        for seed in seeds
        for teacher in teachers.teachers.values()
    ]
    return run_left(run, "full", trials, questions)


def _trial(
    run: Run, shards: ShardSet, teachers: TeacherSet, teacher: Teacher, seed: int, rungs: int
) -> Trial:
    cfg = run.cfg
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "teacher": teacher.serving.fingerprint,
        "shard": shards.artifact.fingerprint,
        "max_examples": [task.max_examples for task in cfg.tasks],
        "distill": cfg.distill.model_dump(mode="json", exclude=NOT_HERE),
        "rungs": rungs,
        "seed": [cfg.seed, seed],
    }
    job = Job(
        name=f"{teacher.name}, seed {seed}",
        student=teachers.student.ref,
        training=cfg.distill,
        data=data_spec(shards, cfg.seed * 1000 + FIRST_SEED + seed, cfg.distill.validation_rows),
        objective=cfg.distill.objective,
        teaching=TeachingSpec({teacher.name: [teacher.serving.ref]}, teacher.name),
        lora=cfg.distill.lora,
        rungs=rungs,
        backend="plain",
    )
    artifact = run.artifact("full", f"{teacher.name}-s{seed}", identity)
    return Trial(teacher.name, seed, job, artifact, shards.artifact)
