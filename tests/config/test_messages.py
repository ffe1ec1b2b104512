"""Config keys that the package's texts and the documentation name exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import distill_ray
from distill_ray.config import RunConfig
from distill_ray.config.load import keys_at

ROOT = Path(__file__).parents[2]
PACKAGE = Path(distill_ray.__file__).parent
FILES = ("html", "j2", "json", "md", "parquet", "py", "yaml", "yml")
KEY = re.compile(rf"(?<![\w./-])(?:{'|'.join(RunConfig.model_fields)})(?:\.\w+)+")
TEXTS = [
    *sorted(PACKAGE.rglob("*.py")),
    *sorted(PACKAGE.rglob("*.j2")),
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted(file for file in (ROOT / "docs").rglob("*.md") if file.parent.name != "results"),
]
ABOUT_OLD_KEYS = ("config/renamed.py", "how-to/upgrade.md")
MISSPELT = {"distill.learning_rte"}
"""Examples of what an error says."""


def _texts(file: Path) -> Iterator[str]:
    if file.suffix != ".py":
        yield file.read_text()
        return
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _missing(key: str) -> bool:
    """Whether a section of the config has no such key. What lies below a free mapping may be."""
    parts = key.split(".")
    for depth in range(2, len(parts) + 1):
        allowed = set(keys_at(RunConfig, parts[:depth]))
        if not allowed:
            return False
        if parts[depth - 1] not in allowed:
            return True
    return False


@pytest.mark.parametrize("file", TEXTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_named_config_keys_exist(file):
    if str(file).endswith(ABOUT_OLD_KEYS):
        pytest.skip("it is about keys of 0.1")
    keys = {key for text in _texts(file) for key in KEY.findall(text)} - MISSPELT
    assert sorted(k for k in keys if k.rsplit(".")[-1] not in FILES and _missing(k)) == []


def test_a_key_that_does_not_exist_is_noticed():
    assert KEY.findall("lower distill.tokens.") == ["distill.tokens"]
    assert _missing("distill.tokens")
    assert not _missing("distill.serving.targets.num_samples")
    assert not _missing("distill.token_budget")
