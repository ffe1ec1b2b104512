"""Who teaches the student when: the teaching part of a training job."""

from __future__ import annotations

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.schedule import scheduling
from distill_ray.config.training import DistillConfig, without
from distill_ray.core.schedule import Reassessment, Rules, Smoothing
from distill_ray.engine.job import EnsembleSpec, OnSwitch, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.teacher_set import TeacherSet, softened
from distill_ray.stages.serving.members import members_of


def first_of(cfg: DistillConfig, ranking: Ranking) -> str:
    """The teacher that begins.

    Raises:
        InputError: the one that is named can't serve.
    """
    if cfg.first_teacher is None:
        return ranking.best("early")
    if cfg.first_teacher not in ranking.eligible:
        failure = ranking.failed.get(cfg.first_teacher, "")
        why = "; ".join(ranking.ineligible.get(cfg.first_teacher, [failure]))
        problem = Problem("distill.first_teacher", f"{cfg.first_teacher} can't serve: {why}.")
        raise InputError("nobody is there to begin:", [problem])
    return cfg.first_teacher


def control_config(run: Run) -> DistillConfig:
    """A plain fine-tune with equal tokens, steps and learning rates, and no teacher.

    Prompts without labels say nothing without a teacher, so the control spends their share of the
    tokens on the other rows: the strongest use that it can make of them.
    """
    cfg = run.cfg.distill
    return without(cfg, {task.prompts_stream for task in run.cfg.tasks})


def teaching_of(
    cfg: DistillConfig,
    teachers: TeacherSet,
    ranking: Ranking,
    first: str,
    ensemble: EnsembleSpec | None = None,
) -> TeachingSpec:
    """Collect the checkpoints of all eligible teachers, and what changes the checkpoint.

    Args:
        cfg: the schedule, and what goes with it.
        teachers: all that there are.
        ranking: of them.
        first: the teacher that begins, where one teaches at a time.
        ensemble: how several do.
    """
    (schedule, options), reassess = scheduling(cfg.schedule), cfg.reassess
    names = ranking.eligible if cfg.ensemble is None else members_of(cfg.ensemble, ranking)
    eligible = {n: teachers.teachers[n] for n in names}
    temperatures = ranking.temperatures if cfg.objective.calibrate else {}
    return TeachingSpec(
        checkpoints={
            n: softened(t.checkpoints, temperatures.get(n, 1.0)) for n, t in eligible.items()
        },
        first_teacher=first if cfg.ensemble is None else ENSEMBLE,
        schedule=schedule,
        options=options,
        ranking=ranking.ranking_weights,
        rules=Rules(
            Reassessment(reassess.at_progress, reassess.margin),
            Smoothing(cfg.progress.smoothing, cfg.progress.monotone),
        ),
        ensemble=ensemble,
    )


def on_switch_of(cfg: DistillConfig, sequence_length: int) -> OnSwitch:
    """What happens to the optimiser at a switch, in steps."""
    return OnSwitch(
        reset=cfg.on_switch.optimizer == "reset",
        warmup_steps=round(cfg.on_switch.warmup_ratio * cfg.num_steps(sequence_length)),
    )
