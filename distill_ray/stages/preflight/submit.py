"""What is wrong with a run that is about to be sent to a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from distill_ray.config.errors import Problem
from distill_ray.config.paths import local_paths
from distill_ray.config.run import RunConfig
from distill_ray.runtime.submission import storage_problems
from distill_ray.runtime.working_dir import Package, package_problems
from distill_ray.stages.preflight.check import find_problems


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
    places = tuple(where.rpartition(".")[0] for where, _ in elsewhere(cfg))
    for problem in find_problems(cfg, config.name, here=False):
        if not problem.where.startswith(places):
            yield problem


def elsewhere(cfg: RunConfig) -> list[tuple[str, str]]:
    """Absolute paths that aren't on this machine: the cluster may have them, and the job looks."""
    return [
        (where, path)
        for where, path in local_paths(cfg)
        if Path(path).is_absolute() and not Path(path).exists()
    ]
