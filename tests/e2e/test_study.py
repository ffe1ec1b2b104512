"""A study by the command line, of which the route is a domain, killed twice on its way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import kill_in, manifests, run, stages, write_configs

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_study_goes_on_where_it_was_killed_and_reuses_the_route(tmp_path: Path) -> None:
    folder = write_configs(tmp_path, workers=2)
    kill_in(folder, "probe", 1, "study.yaml")
    first = manifests(folder)
    assert any("/probe/" in path for path in first)
    assert not any("/rank/" in path for path in first)

    events = kill_in(folder, "full", 1, "study.yaml")
    assert stages(events, "reused") >= {"shard", "adapt", "audit"}
    between = manifests(folder)
    assert first.items() <= between.items()
    assert any("/full/" in path for path in between)

    events, result = run(folder, file="study.yaml")
    assert stages(events, "reused") >= {"shard", "adapt", "audit", "probe", "rank"}
    finished = manifests(folder)
    assert between.items() <= finished.items()
    assert len([path for path in finished if "/full/" in path]) == 4
    found = json.loads(Path(result["page"]).with_suffix(".json").read_text())
    domain = found["domains"]["tiny"]
    assert set(domain["outcomes"]) == {"wide", "narrow"}
    assert [row["teacher"] for row in domain["failed"]["full"]] == ["killer", "killer"]
    assert domain["failed"]["audit"].keys() == {"broken"}
    assert abs(domain["agreement"]["ranking"]["spearman"]) in (0.0, 1.0)
    assert (Path(result["page"]).parent / "which-tiny.svg").stat().st_size > 1000
