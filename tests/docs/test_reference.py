"""The generated reference leaves nothing out."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from distill_ray.config import RunConfig
from distill_ray.config.study import STUDIES

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def config_reference(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "generate"))
    import config_reference

    yield config_reference
    sys.modules.pop("config_reference", None)


@pytest.mark.parametrize("section", [RunConfig, *STUDIES.values()], ids=lambda s: s.__name__)
def test_every_key_of_a_config_is_described(config_reference, section):
    assert config_reference.undescribed(section) == []


def test_the_shared_keys_of_trainings_stand_once_and_changed_defaults_stand_again(config_reference):
    text = config_reference.run_page()
    assert text.count("| `learning_rate` |") == 1
    assert text.count("| `objective` |") == 2  # Probes have another default.
