"""Ray's private APIs are used in one module, so raising Ray's pin means checking one module.

import-linter takes Ray as a whole, so it can't hold this.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from distill_ray.runtime import ray_private

PACKAGE = Path(ray_private.__file__).parents[1]
PRIVATE = re.compile(
    r"ray(\.\w+)*\._[a-z]\w*(\.\w+)*"  # ray._private, ray._raylet, ray.train.v2._internal
    r"|ray\.(autoscaler\.v2|core|dashboard|scripts|train\.v2|tune\.execution)(\.\w+)*"
)
"""Ray's modules and attributes that are no public API, though some have no underscore."""


def private_uses(source: str) -> set[str]:
    """Private names of Ray that a file imports, reads as an attribute, or holds as a string."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.append(node.value)
    return {name for name in names if PRIVATE.fullmatch(name)}


@pytest.mark.parametrize(
    "line",
    [
        "import ray._private.worker",
        "from ray import _raylet",
        "from ray.train.v2._internal.callbacks.datasets import DatasetsCallback",
        "from ray.scripts.scripts import start",
        "ray._private.worker.global_worker.core_worker",
        "import_module('ray._private.worker')",
    ],
)
def test_each_way_to_a_private_api_is_seen(line: str) -> None:
    assert private_uses(line)


@pytest.mark.parametrize(
    "line",
    ["import ray.train.torch", "from ray.util import placement_group", "ray.get(self._x)._y"],
)
def test_public_apis_and_names_of_our_own_are_left_alone(line: str) -> None:
    assert not private_uses(line)


def test_private_apis_of_ray_are_used_in_ray_private_alone() -> None:
    used = {
        file.relative_to(PACKAGE).as_posix(): uses
        for file in PACKAGE.rglob("*.py")
        if (uses := private_uses(file.read_text(encoding="utf-8")))
    }
    assert len(used.pop("runtime/ray_private.py")) > 5
    assert used == {}
