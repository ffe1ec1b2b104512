"""Print the test folders whose slow tests CI runs: those that the last day's commits touched.

    python tests/slow_folders.py

The last day is that before the newest commit. A change of the package counts for the folders of
tests that run it on Ray, too.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN_BY = {
    "bench": ("bench",),
    "cli": ("cluster", "e2e"),
    "cluster": ("cluster",),
    "engine": ("engine", "ray"),
    "models": ("models", "ray"),
    "runtime": ("ray", "cluster", "e2e"),
    "stages": ("ray", "e2e"),
    "study": ("e2e",),
}
"""Package folder → test folders whose slow tests run it."""


def folders_of(files: Iterable[str]) -> list[str]:
    """The folders with slow tests for changed files, each once and sorted."""
    folders = set()
    for file in files:
        top, *below = Path(file).parts
        if top == "tests" and len(below) > 1:
            folders.add(below[0])
        elif top == "distill_ray" and below:
            folders.update(RUN_BY.get(below[0], ()))
    return [f"tests/{name}" for name in sorted(folders) if _has_slow_tests(ROOT / "tests" / name)]


def _has_slow_tests(folder: Path) -> bool:
    return any("pytest.mark.slow" in file.read_text() for file in folder.glob("test_*.py"))


def changed_files() -> set[str]:
    """Files that commits of the day before the newest one changed."""
    newest = int(_git("show", "--no-patch", "--format=%ct", "HEAD"))
    since = f"--since={newest - 24 * 3600}"
    return set(filter(None, _git("log", since, "--format=", "--name-only").splitlines()))


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    print(*folders_of(changed_files()))
