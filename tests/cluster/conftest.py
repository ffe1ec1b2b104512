"""The run that the shipped cluster files are rendered from."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
from hub_cache import write_hub

from distill_ray.config import RunConfig, load_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of the run's models are known."""
    cache = str(write_hub(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", cache)


@pytest.fixture
def cloud(hub: None) -> RunConfig:
    return load_config(ROOT / "configs" / "cloud.yaml")
