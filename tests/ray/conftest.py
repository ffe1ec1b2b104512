"""One Ray and one small shard set for all tests of this folder, requested by name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_run import config

from distill_ray.config import RunConfig

SUPPORT = str(Path(__file__).parents[1] / "support")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The tiny run's config, with its data on disk."""
    return RunConfig.model_validate(config(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="session")
def ray_here(tiny: RunConfig) -> Iterator[None]:
    """A Ray of this test session's own, whose workers import the modules of `tests/support`."""
    from distill_ray.runtime.cluster import ensure_ray, shutdown

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", SUPPORT, prepend=os.pathsep)
        ensure_ray(tiny.cluster)
        yield
        shutdown()
