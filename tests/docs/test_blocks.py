"""What README and the site show can be run: marked blocks, and every part of a config.

A block is marked by a comment on the line above it: `<!-- runnable -->` for shell and Python,
`<!-- config: shortest -->` for a whole config, `<!-- part of a run -->` for a part of one.
"""

from __future__ import annotations

import copy
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distill_ray.config import RunConfig, load_config
from distill_ray.config.document import parse

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- (?P<mark>[^\n]+?) -->\n```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
SHORTEST = "config: shortest"


class Block(NamedTuple):
    """One marked block."""

    place: str
    language: str
    mark: str
    text: str


def _blocks() -> Iterator[Block]:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            place = f"{page.relative_to(ROOT)}:{line}"
            yield Block(place, match["language"], match["mark"], match["text"])


BLOCKS = list(_blocks())


def _marked(mark: str) -> list[Any]:
    return [pytest.param(block, id=block.place) for block in BLOCKS if block.mark == mark]


def _merged(config: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    for key, value in part.items():
        below = config.get(key)
        both = isinstance(value, dict) and isinstance(below, dict)
        config[key] = _merged(below, value) if both else value
    return config


def _shortest() -> str:
    return next(b.text for b in BLOCKS if b.mark == SHORTEST and b.place.startswith("README"))


def test_the_readme_has_at_most_900_words():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 900


def test_every_mark_is_one_that_is_checked():
    assert {block.mark for block in BLOCKS} == {"runnable", SHORTEST, "part of a run"}


@pytest.mark.parametrize("block", _marked(SHORTEST))
def test_the_shortest_config_loads_and_no_key_of_it_can_go(block, tmp_path):
    file = tmp_path / "triage.yaml"
    file.write_text(block.text, encoding="utf-8")
    assert load_config(file).name == "triage"
    for key in parse(block.text):
        without_key = {name: value for name, value in parse(block.text).items() if name != key}
        with pytest.raises(ValueError, match="Field required"):
            RunConfig.model_validate(without_key)


@pytest.mark.parametrize("block", _marked("part of a run"))
def test_a_part_of_a_config_is_valid_within_the_shortest_one(block):
    RunConfig.model_validate(_merged(copy.deepcopy(parse(_shortest())), parse(block.text)))


@pytest.mark.heavy
@pytest.mark.parametrize("block", _marked("runnable"))
def test_a_runnable_block_runs(block, tmp_path):
    for name in ("configs", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    script = tmp_path / "bin" / "distill-ray"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m distill_ray "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join([str(script.parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    shell = ["bash", "-euo", "pipefail", "-c", block.text]
    command = {"bash": shell, "python": [sys.executable, "-c", block.text]}[block.language]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
