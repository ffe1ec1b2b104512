"""A study of schedules by the command line, interrupted and killed while its arms train."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from cli_runs import kill_in, manifests, run, stages, write_schedule_study

from distill_ray.config.study import ARMS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_study_of_schedules_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    folder = write_schedule_study(tmp_path, workers=2)
    kill_in(folder, "arms", 1, "schedule.yaml", signal.SIGINT)
    assert not [*folder.rglob("*.failed.json")], "what was at work has not failed"
    kill_in(folder, "arms", 1, "schedule.yaml")
    first = manifests(folder)
    assert len([path for path in first if "/arm/" in path]) >= 2

    events, result = run(folder, file="schedule.yaml")
    assert stages(events, "reused") >= {"shard", "adapt", "probe", "rank"}
    finished = manifests(folder)
    assert first.items() <= finished.items()
    page = Path(result["page"])
    found = json.loads(page.with_suffix(".json").read_text())
    domain = found["domains"]["tiny"]
    assert domain["failed"] == []
    wanted = {name for name in ARMS if name != "ranked-aw"}
    assert set(domain["arms"]) >= {"control", *wanted}
    statics = {name: arm for name, arm in domain["arms"].items() if arm["static"]}
    assert {arm["static"][0] for arm in statics.values()} == {"wide", "narrow"}

    teacher = domain["most_accurate"]
    best = statics[f"{teacher} {last_checkpoint(statics, teacher)}"]
    plain = domain["arms"]["most_accurate"]
    assert plain["accuracy"] == best["accuracy"], "one training serves both"
    arms = len(domain["arms"]) - 1
    assert len([path for path in finished if "/arm/" in path]) == 2 * arms

    assert all(len(arm["accuracy"]) == 2 for arm in domain["arms"].values())
    assert len({arm["steps"] for arm in domain["arms"].values()}) == 1
    ranked = domain["arms"]["ranked"]
    assert ranked["probe_steps"] > 0 == plain["probe_steps"]
    assert any(entry["changes"] for entry in domain["arms"]["equal_periods"]["served"][0]["log"])
    assert domain["arms"]["aw"]["accuracy"] != plain["accuracy"] or (
        domain["arms"]["aw"]["nll"] != plain["nll"]
    )
    assert (page.parent / "when-tiny.svg").stat().st_size > 1000

    again, _ = run(folder, file="schedule.yaml")
    assert stages(again, "reused") >= {"shard", "adapt", "probe", "rank", "arms"}
    assert manifests(folder) == finished


def last_checkpoint(statics: dict[str, dict], teacher: str) -> int:
    """The last checkpoint of a teacher that may serve, counted from 1."""
    return 1 + max(arm["static"][1] for arm in statics.values() if arm["static"][0] == teacher)
