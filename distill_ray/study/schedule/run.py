"""ScheduleStudy → ScheduleResults: schedules, static choices and the control, with equal tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_ray.config.load import load_arms
from distill_ray.config.study import ArmConfig, ScheduleStudy
from distill_ray.config.training import DistillConfig
from distill_ray.data.examples import Questions
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import Selection, select_teachers
from distill_ray.stages.results.model_scores import ModelToScore
from distill_ray.stages.results.shard_set import task_questions
from distill_ray.stages.results.trial import Trial
from distill_ray.stages.scoring.run import score_models
from distill_ray.stages.trials.run import run_missing
from distill_ray.study.common import cost_of
from distill_ray.study.schedule.arms import (
    CONTROL,
    Arm,
    arms_of,
    most_accurate_teacher,
    trial_of,
)
from distill_ray.study.schedule.compare import (
    DomainResult,
    ScheduleCost,
    ScheduleDomain,
    ScheduleSummary,
    compared,
    overall_of,
)


@dataclass(frozen=True)
class ScheduleResults:
    """The outcome of a study."""

    cfg: ScheduleStudy
    domains: Mapping[str, ScheduleDomain]
    overall: Mapping[str, ScheduleSummary]
    """Group of domains, see `StudyConfig.groups` → summary."""


def study(cfg: ScheduleStudy, runs: Mapping[str, Run]) -> ScheduleResults:
    """Run or reuse every domain to the end, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.
    """
    arms = load_arms(cfg, {name: run.cfg for name, run in runs.items()})
    domains = {name: _domain(cfg, run, arms[name]) for name, run in runs.items()}
    overall = {
        group: overall_of([domains[name] for name in names])
        for group, names in cfg.groups(domains).items()
    }
    return ScheduleResults(cfg, {name: domain.row for name, domain in domains.items()}, overall)


def _domain(
    cfg: ScheduleStudy, run: Run, configured: Mapping[str, tuple[ArmConfig, DistillConfig]]
) -> DomainResult:
    selection = select_teachers(run)
    arms = arms_of(run, selection, configured)
    questions = {split: task_questions(selection.shards, split) for split in ("validation", "test")}
    trials = _train(cfg, run, selection, arms, questions)
    teachers = {
        name: selection.teachers.teachers[name].serving for name in selection.ranking.eligible
    }
    scored = score_models(
        run,
        selection.shards,
        "evaluate",
        "test",
        [ModelToScore(name, w.ref, w.fingerprint) for name, w in teachers.items()],
        run.cfg.evaluate.num_text_rows,
    )
    scored.require(*teachers)
    stages = (selection.teachers, selection.probed, selection.audited, selection.ranking)
    artifacts = [selection.shards.artifact, *(a for stage in stages for a in stage.artifacts)]
    # Arms that come to the same thing share a trial.
    artifacts += {
        trial.artifact.path: trial.artifact
        for by_seed in trials.values()
        for trial in by_seed.values()
    }.values()
    artifacts += [scores.artifact for scores in scored.scores.values()]
    cost = ScheduleCost(**vars(cost_of(artifacts)), tokens=run.cfg.distill.token_budget)
    return compared(
        cfg,
        run.cfg.name,
        arms,
        trials,
        scored.scores,
        questions["test"],
        most_accurate_teacher(selection),
        cost,
    )


def _train(
    cfg: ScheduleStudy,
    run: Run,
    selection: Selection,
    arms: Mapping[str, Arm],
    questions: Mapping[str, Sequence[Questions]],
) -> dict[str, dict[int, Trial]]:
    """Arm → seed → its trial; arms that weight samples come last, since they need their control."""
    trials: dict[str, dict[int, Trial]] = {}
    for weighted in (False, True):
        for arm in arms.values():
            if arm.weighted is weighted:
                controls = {
                    seed: trial
                    for seed, trial in trials.get(CONTROL, {}).items()
                    if trial.artifact.is_complete()
                }
                trials[arm.name] = {
                    seed: trial_of(
                        run, selection, arm, seed, cfg.num_curve_points, controls.get(seed)
                    )
                    for seed in cfg.seeds
                    if seed in controls or not weighted
                }
        # Arms that come to the same thing train once; all arms train with a seed before the next.
        pending = {
            by_seed[seed].artifact.path: by_seed[seed]
            for seed in cfg.seeds
            for by_seed in trials.values()
            if seed in by_seed
        }
        run_missing(
            run, "arms", [*pending.values()], questions["validation"], {"test": questions["test"]}
        )
    return {name: trials[name] for name in arms}
