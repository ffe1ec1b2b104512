"""Several teachers at once by the command line: each stream goes to whom the audit says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_run import config, tiny_model, training

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

MIX = {"organ.labelled": 1, "organ.prompts": 2, "findings": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One teacher knows the task alone, the other one the text, and too little of the task."""
    folder = tmp_path_factory.mktemp("several")
    data = config(folder)
    mixes = {"answers": {"organ.labelled": 1}, "prose": {"findings": 3, "organ.labelled": 1}}
    # Long enough that both gain on the task: without that they would teach as they were.
    made = {n: training(mix=mix, num_checkpoints=2, token_budget=40960) for n, mix in mixes.items()}
    data["adapt"] = {"recipes": made}
    data["teachers"] = [
        {"name": "doctor", "model": tiny_model(48, 2), "recipes": ["answers"]},
        {"name": "writer", "model": tiny_model(32, 3), "recipes": ["prose"]},
    ]
    data["tasks"][0]["max_examples"] = 40
    data["probe"] |= {"token_budget": 1024, "num_curve_points": 1}
    data["cluster"]["num_workers"] = 1
    data["distill"] = training(
        mix=MIX,
        eval_steps=10,
        reassess={"at_progress": []},
        # Named, so that they teach whatever marks such small models get.
        ensemble={"strategy": "by_domain", "teachers": ["doctor", "writer"]},
    )
    (folder / "tiny.yaml").write_text(yaml.safe_dump(data))
    return folder


def test_a_route_with_several_teachers_says_who_taught_what(folder: Path) -> None:
    call = [sys.executable, "-m", "distill_ray", "run", str(folder / "tiny.yaml"), "--json"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = (folder / "runs/tiny/report").rglob("report.json")
    found = json.loads(path.read_text())
    ranking = found["ranking"]
    losses = {n: row["text"]["findings"] for n, row in ranking["evidence"].items()}
    assert losses["writer"] < losses["doctor"], "each was trained for its own"
    (curve,) = (folder / "runs/tiny/distill").rglob("student*/curve.json")
    rows = json.loads(curve.read_text())["history"]
    taught = {name: sum(row[f"tokens.{name}"] for row in rows) for name in losses}
    assert taught == pytest.approx(found["tokens"])
    assert sum(taught.values()) == pytest.approx(sum(row["tokens"] for row in rows))
    assert min(taught.values()) > 0
    assert {row["teacher"] for row in rows} == {"ensemble"}
    page = path.with_name("report.md").read_text()
    assert "at once, by the strategy by_domain" in page
    _, _, table = page.partition("### Tokens by teacher")
    (line,) = (row for row in table.split("###")[0].splitlines() if row.startswith("| writer "))
    assert "findings" in line
