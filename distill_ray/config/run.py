"""The root of a config: one YAML file, one run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.data import CorporaConfig, DataSource, RowSource, TaskConfig
from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.errors import did_you_mean
from distill_ray.config.fingerprint import WHERE_IT_RUNS, NotInFingerprint
from distill_ray.config.models import StudentConfig, TeacherConfig
from distill_ray.config.numbers import NonNegativeInt
from distill_ray.config.probe import ProbeConfig
from distill_ray.config.selection import AuditConfig, EvaluateConfig, RankConfig, ReportConfig
from distill_ray.config.training import AdaptConfig, DistillConfig, TrainingConfig
from distill_ray.config.uris import Uri

RESERVED = ("student", "control", "initial-student", "frozen-student")
"""Models that every run has; no teacher may have their names."""


class RunConfig(Section):
    """One run: models, data, and what each stage does."""

    name: Name
    """The run's folder in the storage. A name belongs to one config."""
    storage: Annotated[Uri, NotInFingerprint(WHERE_IT_RUNS)] = "runs"
    """Where artifacts go: a folder, or a URI such as `s3://bucket/runs`."""
    seed: NonNegativeInt = 0
    """Seed of everything random: initial adapters, orders of rows, dropout, resamples."""
    student: StudentConfig
    teachers: tuple[TeacherConfig, ...] = Field(min_length=1)
    corpora: CorporaConfig
    tasks: tuple[TaskConfig, ...] = Field(min_length=1)
    adapt: AdaptConfig = AdaptConfig()
    audit: AuditConfig = AuditConfig()
    probe: ProbeConfig
    rank: RankConfig = RankConfig()
    distill: DistillConfig
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()
    cluster: Annotated[ClusterConfig, NotInFingerprint(WHERE_IT_RUNS)] = ClusterConfig()

    @model_validator(mode="after")
    def _names_fit(self) -> RunConfig:
        problems = [*_repeated_names(self), *_reserved_names(self), *_recipe_problems(self)]
        problems += [*_mix_problems(self), *_batch_problems(self), *_step_problems(self)]
        problems += [*_draw_problems(self), *_who_teaches_problems(self), *_secret_problems(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def streams(self) -> dict[str, str]:
        """Stream name → its kind, `text` or `task`."""
        corpora = {corpus.name: "text" for corpus in self.corpora.sources}
        tasks = {
            stream: "task"
            for task in self.tasks
            for stream in (task.labelled_stream, task.prompts_stream)
        }
        return corpora | tasks

    def trainings(self) -> Iterator[tuple[str, TrainingConfig]]:
        """Every training run's config, with its place in the file."""
        for name, recipe in self.adapt.recipes.items():
            yield f"adapt.recipes.{name}", recipe
        yield "probe", self.probe
        yield "distill", self.distill

    def sources(self) -> Iterator[tuple[str, RowSource]]:
        """Every source of rows, with its place in the file."""
        for stream in self.stream_sources():
            yield stream.where, stream.source
        if self.corpora.decontaminate is not None:
            for name, source in self.corpora.decontaminate.benchmarks.items():
                yield f"corpora.decontaminate.benchmarks.{name}", source

    def stream_sources(self) -> Iterator[StreamSource]:
        """Every source of a stream's rows."""
        for i, corpus in enumerate(self.corpora.sources):
            yield from _by_split(corpus.name, f"corpora.sources.{i}.source", corpus.source)
        for i, task in enumerate(self.tasks):
            yield from _by_split(task.labelled_stream, f"tasks.{i}.source", task.source)
            if task.prompts is not None:
                yield StreamSource(task.prompts_stream, None, f"tasks.{i}.prompts", task.prompts)
            for j, shifted in enumerate(task.shifted):
                stream, where = shifted_stream(task, shifted.name), f"tasks.{i}.shifted.{j}.source"
                yield StreamSource(stream, None, where, shifted.source)

    def teacher(self, name: str) -> TeacherConfig:
        """The teacher of that name."""
        return next(teacher for teacher in self.teachers if teacher.name == name)


def _repeated_names(cfg: RunConfig) -> Iterator[str]:
    tasks = sorted({t.name for t in cfg.tasks})
    for where, names in (
        ("teachers", [t.name for t in cfg.teachers]),
        ("corpora.sources", [c.name for c in cfg.corpora.sources]),
        ("tasks", [t.name for t in cfg.tasks]),
        *((f"tasks.{t.name}.shifted", [s.name for s in t.shifted]) for t in cfg.tasks),
        ("corpora.sources and tasks", sorted({c.name for c in cfg.corpora.sources}) + tasks),
    ):
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            yield f"{where}: names must differ, {', '.join(map(repr, repeated))} is there twice"


def _reserved_names(cfg: RunConfig) -> Iterator[str]:
    for teacher in cfg.teachers:
        if teacher.name in RESERVED:
            yield f"teachers: {teacher.name!r} is what a student is called, choose another name"
        if teacher.name == ENSEMBLE:
            yield f"teachers: {ENSEMBLE!r} is what a group is called, choose another name"


def _secret_problems(cfg: RunConfig) -> Iterator[str]:
    """The storage's URI is in logs and reports."""
    user, separator, _ = urlsplit(cfg.storage).netloc.rpartition("@")
    if separator and ":" in user:
        yield "storage: leave the password out of the URI, and give it by the environment"


def _recipe_problems(cfg: RunConfig) -> Iterator[str]:
    chains = {f"teachers.{teacher.name}": teacher.recipes for teacher in cfg.teachers}
    for where, recipes in {**chains, "student": cfg.student.recipes}.items():
        for recipe in recipes:
            if recipe not in cfg.adapt.recipes:
                hint = did_you_mean(recipe, cfg.adapt.recipes)
                yield f"{where}.recipes: no recipe {recipe!r}. {hint}".rstrip()
            elif cfg.adapt.recipes[recipe].method == "lora" and recipe != recipes[-1]:
                yield f"{where}.recipes: {recipe!r} trains adapters, so it must be last"
    for recipe in cfg.student.recipes:
        if recipe in cfg.adapt.recipes and cfg.adapt.recipes[recipe].method == "lora":
            what = f"{recipe!r} trains adapters, and the student's own weights are to be trained"
            yield f"student.recipes: {what}, choose a recipe with method: full"
    for teacher in cfg.teachers:
        yield from _checkpoint_problems(cfg, teacher)


def _checkpoint_problems(cfg: RunConfig, teacher: TeacherConfig) -> Iterator[str]:
    num_kept = [
        cfg.adapt.recipes[r].num_checkpoints for r in teacher.recipes[-1:] if r in cfg.adapt.recipes
    ]
    if teacher.checkpoint is not None and num_kept and teacher.checkpoint > num_kept[0]:
        yield (
            f"teachers.{teacher.name}.checkpoint: {teacher.checkpoint} of {num_kept[0]} that "
            f"{teacher.recipes[-1]!r} keeps"
        )


def _draw_problems(cfg: RunConfig) -> Iterator[str]:
    """A race closes a teacher at (1 - confidence) / (K - 1) / looks: draws must show so little."""
    race, rivals = cfg.probe.race, len(cfg.teachers) - 1
    looks = 1 if race is None else max(1, race.max_seeds - len(cfg.probe.seeds) + 1)
    levels = [1 - cfg.rank.confidence, *([(1 - race.confidence) / looks] if race else [])]
    needed = math.ceil(max(rivals, 1) / min(levels))
    if cfg.rank.num_draws < needed:
        yield (
            f"rank.num_draws: {cfg.rank.num_draws} are too few to tell {len(cfg.teachers)} "
            f"teachers apart at these confidences, give {needed} or more"
        )


def _who_teaches_problems(cfg: RunConfig) -> Iterator[str]:
    ensemble, first = cfg.distill.ensemble, cfg.distill.first_teacher
    names = [teacher.name for teacher in cfg.teachers]
    if first is not None and first not in names:
        yield f"distill.first_teacher: no teacher {first!r}. {did_you_mean(first, names)}".rstrip()
    if ensemble is None:
        return
    places = [*cfg.streams(), *(task.name for task in cfg.tasks)]
    if len(names) < 2:
        yield "distill.ensemble: there is one teacher, give more or leave it out"
    for teacher in ensemble.teachers or ():
        if teacher not in names:
            hint = did_you_mean(teacher, names)
            yield f"distill.ensemble.teachers: no teacher {teacher!r}. {hint}".rstrip()
    for place, teacher in ensemble.assignment.items():
        where = f"distill.ensemble.assignment.{place}"
        if place not in places:
            yield f"{where}: no such stream or task. {did_you_mean(place, places)}".rstrip()
        if teacher not in names:
            yield f"{where}: no teacher {teacher!r}. {did_you_mean(teacher, names)}".rstrip()


def _mix_problems(cfg: RunConfig) -> Iterator[str]:
    streams, prompts = cfg.streams(), {task.prompts_stream for task in cfg.tasks}
    for training_at, training in cfg.trainings():
        for number, mix in enumerate(training.mixes):
            where = f"{training_at}.mixing.changes.{number - 1}" if number else training_at
            for stream in mix:
                if stream not in streams:
                    yield f"{where}.mix: no stream {stream!r}. {did_you_mean(stream, streams)}"
            if training_at != "probe" and set(mix) <= prompts:
                what = "prompts alone teach nothing without a teacher, add another stream"
                yield f"{where}.mix: {what}"


def _step_problems(cfg: RunConfig) -> Iterator[str]:
    length = cfg.corpora.sequence_length
    rungs = {f"adapt.recipes.{n}": r.num_checkpoints for n, r in cfg.adapt.recipes.items()}
    rungs["probe"] = cfg.probe.num_curve_points
    for where, training in cfg.trainings():
        steps = training.num_steps(length)
        if steps < rungs.get(where, 1):
            yield (
                f"{where}.token_budget: {training.token_budget} tokens are {steps} steps of "
                f"{training.global_batch_size} x {length}, fewer than its {rungs[where]} "
                "checkpoints"
            )


def _batch_problems(cfg: RunConfig) -> Iterator[str]:
    for where, training in cfg.trainings():
        sizes = range(cfg.cluster.fewest_workers, cfg.cluster.num_workers + 1)
        for workers in [1] if where == "probe" else sizes:
            part = workers * training.micro_batch_size
            if training.global_batch_size % part:
                yield (
                    f"{where}.global_batch_size: {training.global_batch_size} is not a multiple of "
                    f"{workers} workers x micro_batch_size {training.micro_batch_size} = {part}"
                )


def shifted_stream(task: TaskConfig, name: str) -> str:
    """Stream of a task's shifted set."""
    return f"{task.name}.shifted.{name}"


def labelled_streams(task: TaskConfig) -> tuple[str, ...]:
    """Streams whose rows have the task's labels: its own, and those of its shifted sets."""
    return (task.labelled_stream, *(shifted_stream(task, s.name) for s in task.shifted))


def task_templates(task: TaskConfig) -> dict[str, str]:
    """Stream of a task, or of one of its shifted sets → the template of its prompts."""
    templates = dict.fromkeys((task.labelled_stream, task.prompts_stream), task.prompt)
    shifted = {shifted_stream(task, s.name): s.prompt or task.prompt for s in task.shifted}
    return templates | shifted


@dataclass(frozen=True)
class StreamSource:
    """Where rows of a stream come from."""

    stream: str
    split: str | None
    """The split that they belong to; None where the run splits them."""
    where: str
    """Place in the config."""
    source: RowSource


def _by_split(stream: str, where: str, source: DataSource) -> Iterator[StreamSource]:
    for split, of_split in source.by_split().items():
        place = where if split is None else f"{where}.{split}"
        yield StreamSource(stream, split, place, of_split)
