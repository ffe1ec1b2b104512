"""What of a working directory travels with a job.

Ray packs the folder itself. Which files that takes, a `.gitignore` and a `.rayignore` respected, is
asked of the functions that it packs with, so that a file that a run needs is missed before anything
is sent. They aren't public: this module alone imports them, and Ray is pinned.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes

from distill_ray.config.errors import Problem

NEVER = (
    *(".git", ".hg", ".svn", ".venv", "venv", ".tox", ".nox", "node_modules"),
    *("__pycache__", "*.pyc", "*.egg-info", ".cache", ".*_cache", ".ipynb_checkpoints"),
    *("runs", "wandb", "mlruns"),
    # Secrets: what a node must know it has from its own environment.
    *(".env", ".env.*", ".netrc", ".ssh", ".aws", ".gnupg", ".kube", "*.pem", "*.key"),
)
"""Left out of every package, as in a `.gitignore`."""
MAX_BYTES = GCS_STORAGE_MAX_SIZE
"""Ray takes no larger package."""
MIB = 1 << 20


@dataclass(frozen=True)
class Package:
    """The files that are sent, and what is left out of them for its size."""

    root: Path
    files: dict[str, int]
    """Path below the root → bytes."""
    too_large: dict[str, int]
    excludes: tuple[str, ...]
    """For Ray's runtime environment, as in a `.gitignore`."""

    @property
    def size_bytes(self) -> int:
        """Of all files, before they are compressed."""
        return sum(self.files.values())


def survey(root: Path, excludes: Iterable[str], max_file_bytes: int) -> Package:
    """What of a folder is sent.

    Args:
        root: the working directory.
        excludes: more patterns to leave out.
        max_file_bytes: larger files are left out.
    """
    environments = (found.parent for found in _environments(root))
    patterns = [*NEVER, *excludes, *(_anchored(root, folder) for folder in environments)]
    files = dict(_walk(root, patterns))
    too_large = {path: size for path, size in files.items() if size > max_file_bytes}
    sent = {path: size for path, size in files.items() if path not in too_large}
    patterns += [_anchored(root, root / path) for path in too_large]
    return Package(root, sent, too_large, tuple(patterns))


def package_problems(package: Package, needed: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """What a run needs and isn't sent, and a package that is too large.

    Args:
        package: what is sent.
        needed: config key and path of what the run reads.
    """
    for where, path in needed:
        if not Path(path).is_absolute():
            yield from _not_sent(package, where, path)
    if package.size_bytes > MAX_BYTES:
        largest = sorted(package.files, key=lambda path: -package.files[path])[:3]
        what = f"{package.size_bytes / MIB:,.0f} MiB, Ray takes {MAX_BYTES / MIB:,.0f} MiB at most."
        fix = f"Leave some out by cluster.job.excludes; largest: {', '.join(largest)}."
        yield Problem("working directory", what, fix)


def _not_sent(package: Package, where: str, path: str) -> Iterator[Problem]:
    place = Path(os.path.normpath(package.root / path))
    shared = "Name a URI, or an absolute path that all nodes share."
    if not place.is_relative_to(package.root):
        yield Problem(where, f"{path} is outside the working directory, which is sent.", shared)
        return
    for file in sorted(_files(place)):
        name = file.relative_to(package.root).as_posix()
        if name in package.too_large:
            size = f"{package.too_large[name] / MIB:,.0f} MiB"
            fix = f"{shared} Or raise cluster.job.max_file_mib."
            yield Problem(where, f"{name} has {size}, too much to be sent with a job.", fix)
            return
        if name not in package.files:
            fix = f"Take it out of .gitignore, .rayignore or cluster.job.excludes. {shared}"
            yield Problem(where, f"{name} isn't sent: a pattern leaves it out.", fix)
            return


def _files(place: Path) -> Iterator[Path]:
    """A file, or those of a folder but hidden ones and byte code; none where there is nothing."""
    if place.is_file():
        yield place
    for found in place.rglob("*"):
        parts = found.relative_to(place).parts
        if found.is_file() and not any(part.startswith((".", "__pycache__")) for part in parts):
            yield found


def _walk(root: Path, patterns: list[str]) -> Iterator[tuple[str, int]]:
    found: list[Path] = []
    ignored = os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"
    silent = logging.getLogger(__name__)
    _dir_travel(root, [_get_excludes(root, patterns)], found.append, ignored, silent)
    for path in found:
        if path.is_file():
            yield path.relative_to(root).as_posix(), path.stat().st_size


def _environments(root: Path) -> Iterator[Path]:
    """Marks of virtual environments, whatever their folders are called."""
    for depth in ("*", "*/*"):
        yield from root.glob(f"{depth}/pyvenv.cfg")


def _anchored(root: Path, path: Path) -> str:
    """The pattern of this path alone."""
    return "/" + re.sub(r"([*?\[\]\\!# ])", r"\\\1", path.relative_to(root).as_posix())
