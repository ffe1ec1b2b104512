"""DomainDataStudy → results: text of the domain or not, a teacher that has read it or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.fingerprint import NotInStudy, identity_without
from distill_ray.config.run import RunConfig
from distill_ray.config.study import DomainDataStudy
from distill_ray.core.plugins import own_functions
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import adapt
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.results.trial import SaveOptions, Trial, TrialSpec, trial
from distill_ray.stages.shard import shard
from distill_ray.stages.trials.run import run_missing
from distill_ray.study.common import cost_of, data_seed
from distill_ray.study.domain_data.compare import (
    Arm,
    DomainResult,
    DomainRow,
    OverallContrast,
    arms_of,
    compared,
    overall_of,
)

VERSION = 1
NUM_EARLY_QUESTIONS = 100
"""Questions of each task that a student answers before its fine-tune."""
Trials = dict[str, dict[int, Trial]]
"""Arm → seed → its trial."""


@dataclass(frozen=True)
class DomainDataResults:
    """The outcome of a study."""

    cfg: DomainDataStudy
    domains: Mapping[str, DomainRow]
    overall: Mapping[str, Sequence[OverallContrast]]
    """Group of domains, see `StudyConfig.groups` → contrasts."""


def study(cfg: DomainDataStudy, runs: Mapping[str, Run]) -> DomainDataResults:
    """Run or reuse every domain to the end, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.

    Raises:
        InputError: an arm or a teacher isn't what the comparison assumes.
    """
    require(cfg, {name: run.cfg for name, run in runs.items()})
    domains = {name: _domain(cfg, run) for name, run in runs.items()}
    overall = {
        group: overall_of(cfg, [domains[name] for name in names])
        for group, names in cfg.groups(domains).items()
    }
    return DomainDataResults(cfg, {name: result.row for name, result in domains.items()}, overall)


def require(cfg: DomainDataStudy, runs: Mapping[str, RunConfig]) -> None:
    """Refuse arms that differ in more than their text and teacher, and labels before the end.

    Raises:
        InputError: carries every problem of every domain.
    """
    problems = [
        Problem(f"{domain}: {problem.where}", problem.what, problem.fix)
        for domain, run in runs.items()
        for problem in _problems(cfg, run)
    ]
    if problems:
        raise InputError("study not comparable:", problems)


def _problems(cfg: DomainDataStudy, run: RunConfig) -> Iterator[Problem]:
    texts = sorted(name for name, kind in run.streams().items() if kind == "text")
    for name, mix in cfg.mixes.items():
        for stream in mix:
            if stream not in texts:
                what = f"no text {stream!r}. {did_you_mean(stream, texts)}".rstrip()
                yield Problem(f"arms.{name}", what, "Arms distil on text alone.")
    if run.distill.mixing.changes:
        yield Problem("distill.mixing.changes", "the arms decide what is read.", "Remove them.")
    if run.distill.lora is not None:
        yield Problem("distill.lora", "a study trains all weights of its students.", "Remove it.")
    if cfg.fine_tune not in run.adapt.recipes:
        hint = did_you_mean(cfg.fine_tune, run.adapt.recipes)
        yield Problem("fine_tune", f"no recipe {cfg.fine_tune!r}.", hint)
    teachers = {teacher.name: teacher for teacher in run.teachers}
    pair = [teachers[name] for name in (cfg.raw, cfg.adapted) if name in teachers]
    for name in (cfg.raw, cfg.adapted):
        if name not in teachers:
            yield Problem("teachers", f"no teacher {name!r}.", did_you_mean(name, teachers))
    if len(pair) == 2:
        raw, adapted = pair
        shared = adapted.recipes[: len(raw.recipes)]
        is_same = adapted.model == raw.model and shared == raw.recipes
        if not is_same or len(adapted.recipes) == len(shared):
            what = f"{cfg.adapted} isn't {cfg.raw} after further recipes."
            fix = f"Give it the same model, and the recipes {list(raw.recipes)} followed by others."
            yield Problem("teachers", what, fix)
        first, *later = cfg.mixes.values()
        domain = {stream for mix in later for stream in mix} - {*first}
        read = {s for name in raw.recipes for s in run.adapt.recipes[name].streams} & domain
        if read:
            what = f"{cfg.raw} has read {', '.join(sorted(read))}, so it isn't raw."
            yield Problem("teachers", what, f"Take it out of {', '.join(raw.recipes)}.")
    # A label could reach an arm through recipes of the teachers and of the student.
    for name in dict.fromkeys(chain(*(t.recipes for t in pair), run.student.recipes)):
        if labels := run.adapt.recipes[name].streams - {*texts}:
            what = f"reads {', '.join(sorted(labels))}: its labels would reach some arms early."
            fix = "Let teachers and student read text alone before the fine-tune."
            yield Problem(f"adapt.recipes.{name}.mix", what, fix)


def _domain(cfg: DomainDataStudy, run: Run) -> DomainResult:
    shards = shard(run)
    teachers = adapt(run, shards)
    questions = {split: task_questions(shards, split) for split in ("validation", "test")}
    readings = {
        arm.name: {seed: _reading(cfg, run, shards, teachers, arm, seed) for seed in cfg.seeds}
        for arm in arms_of(cfg)
        if arm.text is not None
    }
    few = [each.first(NUM_EARLY_QUESTIONS) for each in questions["validation"]]
    run_missing(run, "read", _by_seed(cfg, readings), few)
    # Every student learns from the same labelled rows in the same order.
    recipe = run.cfg.adapt.recipes[cfg.fine_tune]
    tuned: Trials = {}
    for arm in arms_of(cfg):
        tuned[arm.name] = {}
        for seed in cfg.seeds:
            student = teachers.student
            if arm.name in readings:
                reading = readings[arm.name][seed]
                if not reading.artifact.is_complete():
                    continue
                student = reading.weights
            spec = TrialSpec(
                kind="fine-tune",
                training=recipe,
                num_validation_rows=run.cfg.adapt.num_validation_rows,
                num_checkpoints=cfg.num_curve_points,
                data_seed=data_seed(run, seed),
                identity={"version": VERSION, "recipe": recipe, "rungs": cfg.num_curve_points},
                lora=recipe.lora if recipe.method == "lora" else None,
                save=SaveOptions(answers=True),
            )
            tuned[arm.name][seed] = trial(run, shards, student, arm.name, seed, spec)
    trials = _by_seed(cfg, tuned)
    run_missing(run, "fine-tune", trials, questions["validation"], {"test": questions["test"]})
    every = [*_by_seed(cfg, readings), *trials]
    artifacts = [shards.artifact, *teachers.artifacts, *(trial.artifact for trial in every)]
    cost = cost_of(artifacts)
    return compared(cfg, run.cfg.name, readings, tuned, questions["test"], cost)


def _by_seed(cfg: DomainDataStudy, trials: Trials) -> list[Trial]:
    """All arms with one seed before the next."""
    return [by_seed[s] for s in cfg.seeds for by_seed in trials.values() if s in by_seed]


def _reading(
    cfg: DomainDataStudy, run: Run, shards: ShardSet, teachers: TeacherSet, arm: Arm, seed: int
) -> Trial:
    """The student reads an arm's text, with a teacher or without."""
    assert arm.text is not None
    training = run.cfg.distill.model_copy(update={"mix": cfg.mixes[arm.text]})
    objective, teaching = None, None
    distill = identity_without(training, NotInStudy)
    del distill["objective"]
    identity: dict[str, object] = {"version": VERSION, "reading": distill}
    identity["rungs"] = cfg.num_curve_points
    if arm.teacher is not None:
        serving, objective = teachers.teachers[arm.teacher].serving, training.objective
        teaching = TeachingSpec({arm.teacher: [serving.ref]}, arm.teacher)
        identity |= {"teacher": serving.fingerprint, "objective": objective}
        identity |= own_functions(objective.divergence)
    spec = TrialSpec(
        kind="reading",
        training=training,
        num_validation_rows=training.num_validation_rows,
        num_checkpoints=cfg.num_curve_points,
        data_seed=data_seed(run, seed),
        identity=identity,
        objective=objective,
        teaching=teaching,
        save=SaveOptions(weights=True),
    )
    return trial(run, shards, teachers.student, arm.name, seed, spec)
