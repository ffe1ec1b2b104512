"""ScheduleStudy → Outcome: schedules, static choices and nobody teach with equal tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distill_ray.config.load import load_arms
from distill_ray.config.study import ArmConfig, ScheduleStudy
from distill_ray.config.training import DistillConfig
from distill_ray.data.examples import Questions
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import Selection, select_teachers
from distill_ray.stages.results.model_scores import ModelToScore
from distill_ray.stages.results.shard_set import task_questions
from distill_ray.stages.results.trial import Trial
from distill_ray.stages.scoring.run import score_models
from distill_ray.stages.trials.run import run_left
from distill_ray.study.common import busy_s
from distill_ray.study.schedule.arms import CONTROL, Arm, arms_of, strongest, trial_of
from distill_ray.study.schedule.compare import Row, Taught, compared, overall_of


@dataclass(frozen=True)
class Outcome:
    """What a study of schedules showed."""

    cfg: ScheduleStudy
    domains: dict[str, Row]
    """Domain → `arms`, `teachers`, `strongest`, `best_static`, `oracle`, `failed`, `cost`."""
    overall: dict[str, Row]
    """`all`, and if some are held out `chosen on` and `held out` → `arms`, `steps`, `tasks`."""


def study(cfg: ScheduleStudy, runs: Mapping[str, Run]) -> Outcome:
    """Run every domain to the end, or find it run, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.
    """
    wanted = load_arms(cfg, {name: run.cfg for name, run in runs.items()})
    taught = {name: _domain(cfg, run, wanted[name]) for name, run in runs.items()}
    overall = {
        group: overall_of([taught[name] for name in names])
        for group, names in cfg.groups(taught).items()
    }
    return Outcome(cfg, {name: result.row for name, result in taught.items()}, overall)


def _domain(
    cfg: ScheduleStudy, run: Run, wanted: Mapping[str, tuple[ArmConfig, DistillConfig]]
) -> Taught:
    selection = select_teachers(run)
    arms = arms_of(run, selection, wanted)
    asked = {split: task_questions(selection.shards, split) for split in ("validation", "test")}
    trials = _trained(cfg, run, selection, arms, asked)
    names = list(selection.ranking.serving)
    models = [selection.teachers.teachers[name].serving for name in names]
    subjects = [ModelToScore(n, w.ref, w.fingerprint) for n, w in zip(names, models)]
    scored = score_models(
        run, selection.shards, "evaluate", "test", subjects, run.cfg.evaluate.num_text_rows
    )
    scored.require(*names)
    every = {t.artifact.path: t.artifact for seeds in trials.values() for t in seeds.values()}
    made = [*_route_left(selection), *every.values(), *(s.artifact for s in scored.scores.values())]
    result = compared(
        cfg, run.cfg.name, arms, trials, scored.scores, asked["test"], strongest(selection)
    )
    result.row["cost"] = _cost(run, made)
    return result


def _route_left(selection: Selection) -> list[Artifact]:
    stages = (selection.teachers, selection.probed, selection.audited, selection.ranking)
    return [selection.shards.artifact, *(a for stage in stages for a in stage.artifacts)]


def _trained(
    cfg: ScheduleStudy,
    run: Run,
    selection: Selection,
    arms: Mapping[str, Arm],
    asked: Mapping[str, Sequence[Questions]],
) -> dict[str, dict[int, Trial]]:
    """Arm → seed → its trial; those that weigh samples come last, and need their control."""
    made: dict[str, dict[int, Trial]] = {}
    for weighted in (False, True):
        for arm in arms.values():
            if arm.weighted is weighted:
                controls = {
                    s: t for s, t in made.get(CONTROL, {}).items() if t.artifact.is_complete()
                }
                made[arm.name] = {
                    seed: trial_of(
                        run, selection, arm, seed, cfg.num_curve_points, controls.get(seed)
                    )
                    for seed in cfg.seeds
                    if seed in controls or not weighted
                }
        # Arms that come to the same thing are trained once; a seed of all arms before the next.
        todo = {t.artifact.path: t for seed in cfg.seeds for t in _of_seed(made, seed)}
        run_left(run, "arms", [*todo.values()], asked["validation"], {"test": asked["test"]})
    return {name: made[name] for name in arms}


def _of_seed(made: Mapping[str, Mapping[int, Trial]], seed: int) -> list[Trial]:
    return [trials[seed] for trials in made.values() if seed in trials]


def _cost(run: Run, made: Sequence[Artifact]) -> Row:
    manifests = [artifact.manifest() for artifact in made if artifact.is_complete()]
    return {
        "busy_s": busy_s(manifests),
        "worker_s": sum(m.wall_s for m in manifests),
        "tokens": run.cfg.distill.token_budget,
    }
