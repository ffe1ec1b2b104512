"""Everything that can be known to be wrong before a cluster starts. Reads no weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from distill_ray.config.data import RowSource
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.models import ModelSource, TokenizerSource
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.run import RunConfig
from distill_ray.config.schedule import AtStepsSchedule, PluginSchedule
from distill_ray.config.serving import CachedServing
from distill_ray.core.divergence import DIVERGENCES
from distill_ray.core.plugins import PluginError, check_options, find
from distill_ray.core.weighting import WEIGHTINGS
from distill_ray.data.prompt_format import make_prompt_format
from distill_ray.models import vocab
from distill_ray.models.folder import folder_problems
from distill_ray.models.inspect import check_model
from distill_ray.models.tokenizers import SAME, differs, tokenizer_of
from distill_ray.runtime.capacity import Machine, actor_problems, capacity_problems, machine
from distill_ray.runtime.run import name_problem
from distill_ray.runtime.storage import STORAGE_FIX, Storage
from distill_ray.stages.preflight.check_training import Kernels, kernel_problems, match_problems

CHAT = "Leave chat out, or name the tokenizer of a chat model as student.tokenizer."
"""What would do where a chat can't be rendered."""


def check(cfg: RunConfig, config_file: str) -> None:
    """Refuse a config that can't run.

    Args:
        cfg: the config.
        config_file: name of the file that it was read from.

    Raises:
        InputError: carries every problem found.
    """
    problems = list(find_problems(cfg, config_file))
    if problems:
        raise InputError("the run can't start:", problems)


def check_all(cfgs: Mapping[str, RunConfig], config_file: str) -> None:
    """Refuse a study of which some domain can't run.

    Args:
        cfgs: domain → its run.
        config_file: name of the file that they were read from.

    Raises:
        InputError: carries every problem of every domain.
    """
    problems = [
        replace(problem, where=f"{name}: {problem.where}")
        for name, cfg in cfgs.items()
        for problem in find_problems(cfg, config_file)
    ]
    if problems:
        raise InputError("the study can't start:", problems)


def find_problems(cfg: RunConfig, config_file: str, *, here: bool = True) -> Iterator[Problem]:
    """Every problem that shows without starting anything.

    Args:
        cfg: the config.
        config_file: name of the file that it was read from.
        here: whether this machine, or one that sees the same storage, is to run it.
    """
    yield from check_model(cfg.student.model, "student.model")
    for i, teacher in enumerate(cfg.teachers):
        yield from check_model(teacher.model, f"teachers.{i}.model")
    yield from _tokenizers(cfg)
    yield from _chats(cfg)
    for where, source in cfg.sources():
        yield from _source(where, source)
    yield from _schedule(cfg)
    if here:
        yield from _storage(cfg, config_file)
    for where in ("probe", "distill"):
        yield from _objective(f"{where}.objective", getattr(cfg, where).objective)
    yield from match_problems(cfg)
    yield from _ensemble(cfg)
    if here and cfg.cluster.address is None:
        kernels = Kernels.here(cfg.cluster.gpus_per_worker)
        for where, training in cfg.trainings():
            yield from kernel_problems(where, training, kernels)
        available = machine()
        yield from capacity_problems(
            cfg.cluster, available.cpus, available.gpus, cfg.distill.pools()
        )
        yield from _serving(cfg, available)


def _source(where: str, source: RowSource) -> Iterator[Problem]:
    place = f"{where}.{source.format}"
    if source.format == "callable":
        yield from _function(place, source.location, source.options)
    elif source.format != "dataset" and "://" not in source.location:
        yield from _local_file(place, Path(source.location))


def _local_file(where: str, path: Path) -> Iterator[Problem]:
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        yield Problem(where, f"no such file: {path}.", did_you_mean(path.name, near))
    elif not os.access(path, os.R_OK):
        yield Problem(where, f"{path} can't be read.", "Free its permissions.")
    elif not (path.stat().st_size if path.is_file() else any(path.iterdir())):
        yield Problem(where, f"{path} is empty.", "Give a file with rows.")


def _storage(cfg: RunConfig, config_file: str) -> Iterator[Problem]:
    """Looks without touching; a remote storage is tried when the run opens it."""
    storage = Storage(cfg.storage)
    if not storage.local:
        return
    root = Path(storage.uri)
    existing = next(p for p in (root, *root.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        what = f"{root} can't be written: {existing} is "
        what += "closed to this user." if existing.is_dir() else "not a folder."
        yield Problem("storage", what, STORAGE_FIX)
    elif (problem := name_problem(cfg, config_file, storage.sub(cfg.name))) is not None:
        yield problem


def _schedule(cfg: RunConfig) -> Iterator[Problem]:
    schedule = cfg.distill.schedule
    steps = cfg.distill.num_steps(cfg.corpora.sequence_length)
    if isinstance(schedule, AtStepsSchedule) and schedule.steps[-1] >= steps:
        what = f"step {schedule.steps[-1]} is never reached, the run has {steps} steps."
        yield Problem(
            "distill.schedule.steps", what, "Raise distill.token_budget or lower the step."
        )
    if isinstance(schedule, PluginSchedule):
        yield from _function("distill.schedule", schedule.function, schedule.options)


def _serving(cfg: RunConfig, available: Machine) -> Iterator[Problem]:
    """Whether the processes that compute targets fit; workers train after them, not beside."""
    serving = cfg.distill.serving
    if isinstance(serving, CachedServing):
        yield from actor_problems(cfg.cluster, serving.num_actors, available.cpus, available.gpus)


def _objective(where: str, objective: ObjectiveConfig) -> Iterator[Problem]:
    yield from _function(f"{where}.divergence", objective.divergence, objective.options)
    if objective.weighting is not None:
        yield from _function(f"{where}.weighting", objective.weighting, {})


def _function(where: str, name: str, options: Mapping[str, object]) -> Iterator[Problem]:
    """A function, ours or a user's own, which must be there and take these options."""
    try:
        check_options(find(name, {**DIVERGENCES, **WEIGHTINGS}), options)
    except PluginError as error:
        yield Problem(where, f"{error}.")


def _ensemble(cfg: RunConfig) -> Iterator[Problem]:
    ensemble = cfg.distill.ensemble
    if ensemble is not None and ":" in ensemble.strategy:
        yield from _function("distill.ensemble.strategy", ensemble.strategy, ensemble.options)


def _tokenizers(cfg: RunConfig) -> Iterator[Problem]:
    """Each teacher must read the student's token ids."""
    trained = cfg.student.tokenizer is not None and cfg.student.tokenizer.train is not None
    student = None if trained else _tokenizer_file(cfg.student.model, cfg.student.tokenizer)
    sources = [("student.tokenizer", cfg.student.tokenizer)]
    sources += [(f"teachers.{i}.tokenizer", t.tokenizer) for i, t in enumerate(cfg.teachers)]
    for where, tokenizer in sources:
        if tokenizer is not None and tokenizer.path and not Path(tokenizer.path).is_dir():
            yield Problem(f"{where}.path", f"no such folder: {tokenizer.path}.")
        elif tokenizer is not None and tokenizer.path:
            yield from folder_problems(Path(tokenizer.path), f"{where}.path")
    for i, teacher in enumerate(cfg.teachers):
        where = f"teachers.{i}.tokenizer" if teacher.tokenizer else f"teachers.{i}.model"
        teacher_file = _tokenizer_file(teacher.model, teacher.tokenizer)
        if teacher.tokenizer is not None and teacher.tokenizer.train is not None:
            yield Problem(f"{where}.train", "only the student's tokenizer is trained.", SAME)
        elif trained and teacher.model.init is None:
            what = f"{teacher.name} has a tokenizer of its own, the student's is yet to be trained."
            yield Problem(where, what, "Set student.tokenizer to the teacher's folder or hub id.")
        elif student is not None and teacher_file is not None:
            fit = vocab.compare(student, teacher_file)
            if not fit.equal:
                yield differs(where, teacher.name, fit)


def _chats(cfg: RunConfig) -> Iterator[Problem]:
    """Chat templates of a tokenizer on this machine; one on the hub is seen when it is loaded."""
    source = cfg.student.tokenizer or cfg.student.model
    if not any(task.chat for task in cfg.tasks) or source.hub is not None:
        return
    try:
        trained = isinstance(source, TokenizerSource) and source.train is not None
        tokenizer = None if trained else tokenizer_of(source)
    except (ImportError, OSError, ValueError):
        return  # Another check says what is wrong with the model or the tokenizer.
    yield from chat_problems(cfg, tokenizer)


def chat_problems(cfg: RunConfig, tokenizer: Any) -> Iterator[Problem]:
    """Tasks that are worded as a chat, which this tokenizer's template doesn't serve for.

    Args:
        cfg: the config.
        tokenizer: the student's; None for one that is trained here.
    """
    for i, task in enumerate(cfg.tasks):
        if task.chat and tokenizer is None:
            yield Problem(f"tasks.{i}.chat", "a tokenizer trained here has no chat template.", CHAT)
        elif task.chat:
            try:
                make_prompt_format(tokenizer, chat=True, system=task.system)
            except ValueError as error:
                yield Problem(f"tasks.{i}.chat", f"{error}.", CHAT)


def _tokenizer_file(model: ModelSource, tokenizer: TokenizerSource | None) -> dict[str, Any] | None:
    """The parsed tokenizer where it lies on this machine."""
    place = (tokenizer.path if tokenizer else None) or (None if tokenizer else model.path)
    try:
        return vocab.tokenizer_file(Path(place)) if place else None
    except (OSError, ValueError):
        return None  # Another check says what is wrong with the folder.
