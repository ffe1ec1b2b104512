"""DomainDataStudy → Outcome: text of the domain or not, a teacher that has read it or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.run import RunConfig
from distill_ray.config.study import DomainDataStudy
from distill_ray.core.plugins import own_functions
from distill_ray.data.examples import Questions
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import adapt
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet, Weights
from distill_ray.stages.results.trial import SaveOptions, Trial, TrialSpec, trial
from distill_ray.stages.shard import shard
from distill_ray.stages.trials.run import run_left
from distill_ray.study.common import busy_s, order_of
from distill_ray.study.domain_data.compare import (
    DomainResult,
    Row,
    Way,
    compared,
    overall_of,
    ways_of,
)
from distill_ray.study.ranking.full import NOT_HERE

VERSION = 1
GLANCED = 100
"""Questions that a student is asked before it is fine-tuned."""
Trials = dict[str, dict[int, Trial]]
"""Way → seed → its trial."""


@dataclass(frozen=True)
class Outcome:
    """What a study of domain data showed."""

    cfg: DomainDataStudy
    domains: dict[str, Row]
    """Domain → `students`, `contrasts`, `questions`, `failed`, `cost`."""
    overall: dict[str, list[Row]]
    """`all`, and if some are held out `chosen on` and `held out` → their `contrasts`."""


def study(cfg: DomainDataStudy, runs: Mapping[str, Run]) -> Outcome:
    """Run every domain to the end, or find it run, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.

    Raises:
        InputError: an arm or a teacher isn't what it is compared as.
    """
    require(cfg, {name: run.cfg for name, run in runs.items()})
    told = {name: _domain(cfg, run) for name, run in runs.items()}
    overall = {
        group: overall_of(cfg, [told[name] for name in names])
        for group, names in cfg.groups(told).items()
    }
    return Outcome(cfg, {name: found.row for name, found in told.items()}, overall)


def require(cfg: DomainDataStudy, runs: Mapping[str, RunConfig]) -> None:
    """Refuse arms that differ in more than their text and teacher, and labels before the end.

    Raises:
        InputError: carries every problem of every domain.
    """
    problems = [
        Problem(f"{domain}: {problem.where}", problem.what, problem.fix)
        for domain, run in runs.items()
        for problem in chain(_arms(cfg, run), _teachers(cfg, run), _readers(cfg, run))
    ]
    if problems:
        raise InputError("the study can't compare:", problems)


def _texts(run: RunConfig) -> list[str]:
    return sorted(name for name, kind in run.streams().items() if kind == "text")


def _arms(cfg: DomainDataStudy, run: RunConfig) -> Iterator[Problem]:
    texts = _texts(run)
    for name, mix in cfg.mixes.items():
        for stream in mix:
            if stream not in texts:
                what = f"no text {stream!r}. {did_you_mean(stream, texts)}".rstrip()
                yield Problem(f"arms.{name}", what, "Arms distil on text alone.")
    if run.distill.mixing.changes:
        yield Problem("distill.mixing.changes", "the arms say what is read.", "Leave them out.")
    if run.distill.lora is not None:
        yield Problem("distill.lora", "students are trained whole here.", "Leave it out.")
    if cfg.fine_tune not in run.adapt.recipes:
        hint = did_you_mean(cfg.fine_tune, run.adapt.recipes)
        yield Problem("fine_tune", f"no recipe {cfg.fine_tune!r}.", hint)


def _teachers(cfg: DomainDataStudy, run: RunConfig) -> Iterator[Problem]:
    there = {teacher.name: teacher for teacher in run.teachers}
    missing = [name for name in (cfg.raw, cfg.adapted) if name not in there]
    for name in missing:
        yield Problem("teachers", f"no teacher {name!r}.", did_you_mean(name, there))
    if missing:
        return
    raw, adapted = there[cfg.raw], there[cfg.adapted]
    begun = adapted.recipes[: len(raw.recipes)]
    if adapted.model != raw.model or begun != raw.recipes or len(adapted.recipes) == len(begun):
        what = f"{cfg.adapted} isn't {cfg.raw} after further recipes."
        fix = f"Give it the same model, and the recipes {list(raw.recipes)} followed by others."
        yield Problem("teachers", what, fix)
    first, *others = cfg.mixes.values()
    domain = {stream for mix in others for stream in mix} - {*first}
    seen = {s for name in raw.recipes for s in run.adapt.recipes[name].streams} & domain
    if seen:
        what = f"{cfg.raw} has read {', '.join(sorted(seen))}, so it isn't raw."
        yield Problem("teachers", what, f"Take it out of {', '.join(raw.recipes)}.")


def _readers(cfg: DomainDataStudy, run: RunConfig) -> Iterator[Problem]:
    """Recipes of the teachers and of the student, through which a label could reach an arm."""
    there = {teacher.name: teacher for teacher in run.teachers}
    chains = [there[name].recipes for name in (cfg.raw, cfg.adapted) if name in there]
    for name in dict.fromkeys(chain(*chains, run.student.recipes)):
        if labels := run.adapt.recipes[name].streams - {*_texts(run)}:
            what = f"reads {', '.join(sorted(labels))}: its labels would reach some arms early."
            fix = "Let teachers and student read text alone before the fine-tune."
            yield Problem(f"adapt.recipes.{name}.mix", what, fix)


def _domain(cfg: DomainDataStudy, run: Run) -> DomainResult:
    shards = shard(run)
    teachers = adapt(run, shards)
    asked = {split: task_questions(shards, split) for split in ("validation", "test")}
    readings = {
        way.name: {seed: _reading(cfg, run, shards, teachers, way, seed) for seed in cfg.seeds}
        for way in ways_of(cfg)
        if way.arm is not None
    }
    glance = [questions.first(GLANCED) for questions in asked["validation"]]
    _run_left(run, "read", cfg.seeds, readings, glance)
    tuned: Trials = {}
    for way in ways_of(cfg):
        read = readings.get(way.name)
        tuned[way.name] = {
            seed: _fine_tune(
                cfg,
                run,
                shards,
                teachers.student if read is None else read[seed].weights,
                way,
                seed,
            )
            for seed in cfg.seeds
            if read is None or read[seed].artifact.is_complete()
        }
    _run_left(run, "fine-tune", cfg.seeds, tuned, asked["validation"], {"test": asked["test"]})
    told = compared(cfg, run.cfg.name, readings, tuned, asked["test"])
    every = [t.artifact for found in (readings, tuned) for s in found.values() for t in s.values()]
    told.row["cost"] = _cost([shards.artifact, *teachers.artifacts, *every])
    return told


def _run_left(
    run: Run,
    stage: str,
    seeds: Sequence[int],
    trials: Trials,
    questions: Sequence[Questions],
    at_end: Mapping[str, Sequence[Questions]] | None = None,
) -> None:
    """A seed of all ways before the next."""
    todo = [found[seed] for seed in seeds for found in trials.values() if seed in found]
    run_left(run, stage, todo, questions, at_end)


def _reading(
    cfg: DomainDataStudy, run: Run, shards: ShardSet, teachers: TeacherSet, way: Way, seed: int
) -> Trial:
    """The student reads an arm's text, with a teacher or without."""
    assert way.arm is not None
    training = run.cfg.distill.model_copy(update={"mix": cfg.mixes[way.arm]})
    objective, teaching, identity = None, None, dict[str, Any]()
    silent = {**NOT_HERE, "objective": True}
    if way.teacher is not None:
        serving, objective = teachers.teachers[way.teacher].serving, training.objective
        teaching = TeachingSpec({way.teacher: [serving.ref]}, way.teacher)
        identity = {"teacher": serving.fingerprint, "objective": objective}
        identity |= own_functions(objective.divergence)
    plan = TrialSpec(
        kind="reading",
        training=training,
        num_validation_rows=training.num_validation_rows,
        rungs=cfg.num_curve_points,
        order=order_of(run, seed),
        identity={
            "version": VERSION,
            "reading": training.model_dump(mode="json", exclude=silent),
            "rungs": cfg.num_curve_points,
            **identity,
        },
        objective=objective,
        teaching=teaching,
        keep=SaveOptions(weights=True),
    )
    return trial(run, shards, teachers.student, way.name, seed, plan)


def _fine_tune(
    cfg: DomainDataStudy, run: Run, shards: ShardSet, student: Weights, way: Way, seed: int
) -> Trial:
    """The student learns from the labels: the same rows in the same order for every way."""
    recipe = run.cfg.adapt.recipes[cfg.fine_tune]
    plan = TrialSpec(
        kind="fine-tune",
        training=recipe,
        num_validation_rows=run.cfg.adapt.num_validation_rows,
        rungs=cfg.num_curve_points,
        order=order_of(run, seed),
        identity={"version": VERSION, "recipe": recipe, "rungs": cfg.num_curve_points},
        lora=recipe.lora if recipe.method == "lora" else None,
        keep=SaveOptions(answers=True),
    )
    return trial(run, shards, student, way.name, seed, plan)


def _cost(made: Sequence[Artifact]) -> Row:
    manifests = [artifact.manifest() for artifact in made if artifact.is_complete()]
    return {"busy_s": busy_s(manifests), "worker_s": sum(m.wall_s for m in manifests)}
