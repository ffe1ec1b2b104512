"""A page for each package of the Python API; mkdocstrings fills them from the docstrings."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path

PACKAGES = ("config", "core", "data", "models", "engine")
"""What can be used from Python without starting Ray."""


def pages(folder: str) -> dict[str, str]:
    """Path of a page → its Markdown."""
    spec = importlib.util.find_spec("distill_ray")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    return {f"{folder}/{name}.md": _page(root / name, f"distill_ray.{name}") for name in PACKAGES}


def _page(folder: Path, package: str) -> str:
    modules = [m.name for m in pkgutil.walk_packages([str(folder)], f"{package}.") if not m.ispkg]
    # Below the hand-written pages in the results of a search.
    parts = ["---\nsearch: {boost: 0.5}\n---", f"# {package}"]
    parts += [f"::: {module}" for module in sorted(modules)]
    return "\n\n".join(parts) + "\n"
