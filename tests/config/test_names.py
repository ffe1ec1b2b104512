"""Names that the config knows without torch are the ones that torch code has."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from tiny_run import config

import distill_ray
from distill_ray.config import RunConfig, load_config
from distill_ray.config.load import load_study
from distill_ray.config.objective import DIVERGENCE_NAMES, WEIGHTING_NAMES
from distill_ray.config.renamed import markdown_table
from distill_ray.config.schedule import Schedule, scheduling
from distill_ray.config.selection import Importances, Level
from distill_ray.config.study import STUDIES
from distill_ray.config.training import DistillConfig
from distill_ray.core.divergence import DIVERGENCES
from distill_ray.core.plugins import check_options, find
from distill_ray.core.ranking import FACTORS, LEVELS
from distill_ray.core.schedules import SCHEDULES
from distill_ray.core.weighting import WEIGHTINGS

ROOT = Path(__file__).parents[2]


def test_divergences_are_those_of_core() -> None:
    assert set(DIVERGENCE_NAMES) == set(DIVERGENCES)


def test_schedules_are_those_of_core() -> None:
    schema = json.dumps(DistillConfig.model_json_schema()["properties"]["schedule"])
    mapping = json.loads(schema)["discriminator"]["mapping"]
    assert set(mapping) == {*SCHEDULES, "plugin"}


def test_weightings_are_those_of_core() -> None:
    assert set(WEIGHTING_NAMES) == set(WEIGHTINGS)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_schedule_s_section_has_the_options_of_its_function(name: str) -> None:
    required = {"steps": [1, 2]} if name == "at_steps" else {}
    section = TypeAdapter[Any](Schedule).validate_python({"kind": name, **required})
    called, options = scheduling(section)
    assert find(called, SCHEDULES) is SCHEDULES[name]
    check_options(SCHEDULES[name], options)
    keyword_only = inspect.getfullargspec(SCHEDULES[name]).kwonlyargs
    assert set(options) == set(keyword_only)
    defaults = inspect.getfullargspec(SCHEDULES[name]).kwonlydefaults or {}
    assert {key: options[key] for key in defaults} == defaults


def test_levels_and_factors_are_those_of_core() -> None:
    assert set(get_args(Level)) == set(LEVELS)
    assert set(Importances.model_fields) == set(FACTORS)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_shipped_config_is_valid(path: Path) -> None:
    cfg = load_config(path)
    again = RunConfig.model_validate_json(cfg.model_dump_json())
    assert again == cfg


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "studies").glob("*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_study_is_valid(path: Path) -> None:
    study, runs = load_study(STUDIES[path.stem], path)
    assert set(study.held_out_domains) < set(runs)
    for cfg in runs.values():
        assert RunConfig.model_validate_json(cfg.model_dump_json()) == cfg


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"## {distill_ray.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_the_changelog_has_every_renamed_key() -> None:
    assert f"\n{markdown_table()}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_a_recipe_that_trains_adapters_must_be_the_last(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["teachers"][1]["recipes"] = ["lora", "full"]
    with pytest.raises(ValueError, match="'lora' trains adapters, so it must be last"):
        RunConfig.model_validate(data)


def test_a_teacher_may_not_be_called_what_a_student_is(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["teachers"][0]["name"] = "control"
    with pytest.raises(ValueError, match="'control' is what a student is called"):
        RunConfig.model_validate(data)


def test_a_corpus_and_a_task_may_not_share_a_name(tmp_path: Path) -> None:
    data = config(tmp_path)
    data["tasks"][0]["name"] = "findings"
    with pytest.raises(ValueError, match="'findings' is there twice"):
        RunConfig.model_validate(data)
