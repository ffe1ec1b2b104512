"""Which files of a working directory Ray uploads with a job.

Ray packs the folder itself and respects `.gitignore` and `.rayignore`. This module lists the files
with the same functions, so that a file that a run needs is missed before anything is sent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from distill_ray.config.errors import Problem
from distill_ray.runtime.ray_private import max_package_bytes, visit_package

NEVER = (
    *(".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", "node_modules"),
    *("__pycache__", "*.pyc", "*.egg-info", ".cache", ".*_cache", ".ipynb_checkpoints"),
    *("runs", "wandb", "mlruns"),
    # Secrets: nodes have theirs from their own environment.
    *(".env", ".env.*", ".netrc", ".ssh", ".aws", ".gnupg", ".kube", "*.pem", "*.key"),
)
"""Patterns that no package includes, as in a `.gitignore`."""
MAX_BYTES = max_package_bytes()
"""The largest package that Ray accepts."""
MIB = 1 << 20


@dataclass(frozen=True)
class Package:
    """The files that are sent, and those that are too large to send."""

    root: Path
    files: dict[str, int]
    """Path below the root → bytes."""
    too_large: dict[str, int]
    excludes: tuple[str, ...]
    """For Ray's runtime environment, as in a `.gitignore`."""

    @property
    def size_bytes(self) -> int:
        """Total size before compression."""
        return sum(self.files.values())


def survey(root: Path, excludes: Iterable[str], max_file_bytes: int) -> Package:
    """List the files of a folder that a job's package includes.

    Args:
        root: the working directory.
        excludes: more patterns to exclude.
        max_file_bytes: larger files are excluded.
    """
    # Virtual environments, whatever their folders are called.
    environments = (
        mark.parent for depth in ("*", "*/*") for mark in root.glob(f"{depth}/pyvenv.cfg")
    )
    patterns = [*NEVER, *excludes, *(_anchored(root, folder) for folder in environments)]
    gitignore = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    files = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in visit_package(root, patterns, gitignore=gitignore)
        if path.is_file()
    }
    too_large = {path: size for path, size in files.items() if size > max_file_bytes}
    sent = {path: size for path, size in files.items() if path not in too_large}
    patterns += [_anchored(root, root / path) for path in too_large]
    return Package(root, sent, too_large, tuple(patterns))


def package_problems(package: Package, needed: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Files that a run needs but its package lacks, and a package that is too large.

    Args:
        package: the files that are sent.
        needed: config key and path of each file or folder that the run reads.
    """
    for where, path in needed:
        if not Path(path).is_absolute():
            yield from _not_sent(package, where, path)
    if package.size_bytes > MAX_BYTES:
        largest = sorted(package.files, key=lambda path: -package.files[path])[:3]
        what = (
            f"{package.size_bytes / MIB:,.0f} MiB; Ray accepts at most {MAX_BYTES / MIB:,.0f} MiB."
        )
        fix = f"Exclude some with cluster.job.excludes; largest: {', '.join(largest)}."
        yield Problem("working directory", what, fix)


def _not_sent(package: Package, where: str, path: str) -> Iterator[Problem]:
    place = Path(os.path.normpath(package.root / path))
    shared = "Name a URI, or an absolute path that all nodes share."
    if not place.is_relative_to(package.root):
        yield Problem(where, f"{path} is outside the working directory, so it isn't sent.", shared)
        return
    for file in sorted(_files(place)):
        name = file.relative_to(package.root).as_posix()
        if name in package.too_large:
            size = f"{package.too_large[name] / MIB:,.0f} MiB"
            fix = f"{shared} Or raise cluster.job.max_file_mib."
            yield Problem(where, f"{name} has {size}, too large to send with a job.", fix)
            return
        if name not in package.files:
            fix = f"Take it out of .gitignore, .rayignore or cluster.job.excludes. {shared}"
            yield Problem(where, f"{name} isn't sent: a pattern leaves it out.", fix)
            return


def _files(place: Path) -> Iterator[Path]:
    """A file, or a folder's files without hidden ones and byte code; none if nothing exists."""
    if place.is_file():
        yield place
    for path in place.rglob("*"):
        parts = path.relative_to(place).parts
        if path.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
            yield path


def _anchored(root: Path, path: Path) -> str:
    """The pattern that matches this path alone."""
    return "/" + re.sub(r"([*?\[\]\\!# ])", r"\\\1", path.relative_to(root).as_posix())
