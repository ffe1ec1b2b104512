"""The image, as far as it can be known without building it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
STEPS = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", TEXT, flags=re.M)).strip().splitlines()


def test_versions_are_those_that_the_project_pins() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    given = dict(re.findall(r"ARG (\w+)_VERSION=([\d.]+)", TEXT))
    assert set(given) == {"TORCH", "RAY", "DEEPSPEED"}
    for name, version in given.items():
        assert re.search(rf'"{name.lower()}(\[[a-z,]+\])?=={re.escape(version)}"', project), name
    extras = re.search(r'"ray(\[[a-z,]+\])==', project)
    assert extras is not None and f"ray{extras[1]}==${{RAY_VERSION}}" in TEXT


def test_the_base_has_cuda_and_its_version_is_pinned() -> None:
    (base,) = (step for step in STEPS if step.startswith("FROM "))
    assert re.fullmatch(r"FROM nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu24\.04", base)


def test_nothing_of_ours_runs_as_root() -> None:
    user = STEPS.index("USER 1000:1000")
    assert not any(step.startswith("USER") for step in STEPS[user + 1 :])
    as_root = [step for step in STEPS[:user] if step.startswith("RUN")]
    assert not any("pip install" in step for step in as_root)
    assert "sudo" not in TEXT


def test_it_asks_for_a_token_and_holds_none() -> None:
    assert any(step.startswith("ENV") and "RAY_AUTH_MODE=token" in step for step in STEPS)
    assert not re.search(r"AUTH_TOKEN|SECRET|PASSWORD|_KEY=", TEXT)
    copied = [word for step in STEPS if step.startswith("COPY") for word in step.split()[1:-1]]
    sources = {word for word in copied if not word.startswith("--")}
    assert sources == {"pyproject.toml", "README.md", "LICENSE", "distill_ray", "configs", "jobs"}
    assert all((ROOT / source).exists() for source in sources)
    sent = (ROOT / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in sent and {line[1:] for line in sent if line.startswith("!")} == sources


def test_the_source_comes_last() -> None:
    installs = [i for i, step in enumerate(STEPS) if "pip install" in step]
    source = next(i for i, step in enumerate(STEPS) if step.startswith("COPY") and "jobs" in step)
    assert installs[-1] > source > installs[-2]
    assert "--no-deps" in STEPS[installs[-1]]
