"""Find files inside installed Python packages without importing the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from distill_ray.config.models import PACKAGE


def file_of(place: str) -> Path:
    """Find the file that a path or `pkg://package/file` names; it may not exist.

    Raises:
        FileNotFoundError: there is no such package; the message says how to get it.
    """
    if not place.startswith(PACKAGE):
        return Path(place).absolute()
    package, _, inside = place.removeprefix(PACKAGE).partition("/")
    # Importing the package would need its dependencies; its files don't.
    spec = find_spec(package)
    folders = [*(spec.submodule_search_locations or ())] if spec is not None else []
    if not folders:
        wheel = package.replace("_", "-")
        raise FileNotFoundError(
            f"no package {package} is installed. Run: pip install --no-deps {wheel}"
        )
    files = [Path(folder) / inside for folder in folders]
    return next((file for file in files if file.exists()), files[0])
