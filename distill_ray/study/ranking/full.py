"""ShardSet, TeacherSet → full distillations: one student for each teacher and seed, scored."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.config.fingerprint import NotInStudy, identity_without
from distill_ray.core.plugins import own_functions
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.results.trial import Trials, TrialSpec, trial
from distill_ray.stages.trials.run import run_missing
from distill_ray.study.common import data_seed

VERSION = 1


def distil_fully(
    run: Run, shards: ShardSet, teachers: TeacherSet, seeds: Sequence[int], num_checkpoints: int
) -> Trials:
    """Distil the student from every teacher alone with the full budget, and score it on test.

    Args:
        run: the run; its `distill` section sets the budget, the data and the objective.
        shards: the run's rows.
        teachers: each teaches with the checkpoint that is audited and probed.
        seeds: orders of the rows, each the same for every teacher.
        num_checkpoints: points of each curve.
    """
    cfg = run.cfg.distill
    trials = []
    for seed in seeds:
        for teacher in teachers.teachers.values():
            spec = TrialSpec(
                kind="full",
                training=cfg,
                num_validation_rows=cfg.num_validation_rows,
                num_checkpoints=num_checkpoints,
                data_seed=data_seed(run, seed),
                identity={
                    "version": VERSION,
                    "teacher": teacher.serving.fingerprint,
                    "distill": identity_without(cfg, NotInStudy),
                    "rungs": num_checkpoints,
                    **own_functions(cfg.objective.divergence, cfg.objective.weighting),
                },
                objective=cfg.objective,
                teaching=TeachingSpec({teacher.name: [teacher.serving.ref]}, teacher.name),
                lora=cfg.lora,
            )
            trials.append(trial(run, shards, teachers.student, teacher.name, seed, spec))
    return run_missing(run, "full", trials, task_questions(shards, "test"))
