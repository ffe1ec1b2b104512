"""Every check before a run starts or is sent to a cluster, in order. Reads no weights.

`find_problems` lists what `plan`, `run` and the studies check, `submit_problems` what `submit`
checks. A check is a function that yields problems, and stands beside its subject.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.paths import local_paths
from distill_ray.config.run import RunConfig
from distill_ray.config.serving import CachedServing
from distill_ray.models.inspect import check_model
from distill_ray.runtime.capacity import actor_problems, capacity_problems, machine
from distill_ray.runtime.submission import storage_problems
from distill_ray.runtime.working_dir import Package, package_problems
from distill_ray.stages.preflight.check_files import local_storage_problems, source_problems
from distill_ray.stages.preflight.check_functions import (
    ensemble_problems,
    objective_problems,
    schedule_problems,
)
from distill_ray.stages.preflight.check_tokenizers import local_chat_problems, tokenizer_problems
from distill_ray.stages.preflight.check_training import Kernels, kernel_problems, match_problems


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
    yield from tokenizer_problems(cfg)
    yield from local_chat_problems(cfg)
    for where, source in cfg.sources():
        yield from source_problems(where, source)
    yield from schedule_problems(cfg)
    if here:
        yield from local_storage_problems(cfg, config_file)
    yield from objective_problems("probe.objective", cfg.probe.objective)
    yield from objective_problems("distill.objective", cfg.distill.objective)
    yield from match_problems(cfg)
    yield from ensemble_problems(cfg)
    if here and cfg.cluster.address is None:
        kernels = Kernels.here(cfg.cluster.gpus_per_worker)
        for where, training in cfg.trainings():
            yield from kernel_problems(where, training, kernels)
        available, serving = machine(), cfg.distill.serving
        yield from capacity_problems(
            cfg.cluster, available.cpus, available.gpus, cfg.distill.pools()
        )
        if isinstance(serving, CachedServing):  # Workers train after them, not beside them.
            yield from actor_problems(
                cfg.cluster, serving.num_actors, available.cpus, available.gpus
            )


def submit_problems(cfg: RunConfig, config: Path, package: Package) -> Iterator[Problem]:
    """Every problem that shows before anything is sent.

    Args:
        cfg: the config.
        config: its file.
        package: what is sent.
    """
    yield from storage_problems(cfg, package.root)
    file = Path(os.path.relpath(config.resolve(), package.root.resolve())).as_posix()
    yield from package_problems(package, [*local_paths(cfg), ("CONFIG", file)])
    places = tuple(where.rpartition(".")[0] for where, _ in paths_elsewhere(cfg))
    for problem in find_problems(cfg, config.name, here=False):
        if not problem.where.startswith(places):
            yield problem


def paths_elsewhere(cfg: RunConfig) -> list[tuple[str, str]]:
    """Absolute paths that aren't on this machine: the cluster may have them, and the job looks."""
    return [
        (where, path)
        for where, path in local_paths(cfg)
        if Path(path).is_absolute() and not Path(path).exists()
    ]


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


def check_submission(cfg: RunConfig, config: Path, package: Package) -> None:
    """Refuse a run that can't be sent.

    Args:
        cfg: the config.
        config: its file.
        package: what is sent.

    Raises:
        InputError: carries every problem found; nothing has been sent.
    """
    problems = list(submit_problems(cfg, config, package))
    if problems:
        raise InputError("run can't be submitted:", problems)
