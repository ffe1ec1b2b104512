"""What a kill costs, from the events of a run; when kills come; the table. No run is started."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distill_ray.bench.chaos.compare import differences
from distill_ray.bench.chaos.config import copied, write
from distill_ray.bench.chaos.outcomes import (
    KINDS,
    Kill,
    KillPlan,
    KillResult,
    TimedEvent,
    kill_of,
    kill_plans,
)
from distill_ray.bench.chaos.page import page, rows
from distill_ray.bench.chaos.run import ChaosReport
from distill_ray.bench.harness.descendants import below
from distill_ray.config import load_config


def steps(start: int, stop: int, at: float) -> list[TimedEvent]:
    """A tenth of a second a step."""
    return [
        TimedEvent(at + (n - start) / 10, "distill", f"student: loss {1 / n:.3f}", n)
        for n in range(start, stop + 1)
    ]


def went_on(step: int, workers: int, at: float) -> TimedEvent:
    text = f"student: goes on after step {step}, with {workers} worker{'s' * (workers > 1)}"
    return TimedEvent(at, "distill", text)


def test_steps_that_were_done_again_and_the_time_until_then_are_what_a_kill_costs() -> None:
    events = [*steps(1, 50, at=0), went_on(40, 1, at=20), *steps(41, 60, at=21)]
    kill = kill_of(events, killed_at=4.9, job="student")
    assert (kill.at_step, kill.lost, kill.workers) == (50, 10, 1)
    assert kill.recovery_s == pytest.approx(21 - 4.9)


def test_steps_that_were_told_only_after_the_kill_were_done_before_it() -> None:
    events = [*steps(1, 50, at=0), went_on(40, 2, at=20), *steps(41, 60, at=21)]
    assert kill_of(events, killed_at=4.0, job="student").lost == 10


def test_without_a_checkpoint_all_steps_are_lost() -> None:
    events = [*steps(1, 15, at=0), *steps(1, 60, at=20)]
    assert kill_of(events, killed_at=1.4, job="student").lost == 15


def test_a_run_that_never_went_on_has_no_recovery() -> None:
    kill = kill_of(steps(1, 50, at=0), killed_at=4.9, job="student")
    assert (kill.at_step, kill.lost, kill.recovery_s) == (50, None, None)


def test_each_of_two_kills_counts_from_where_the_first_left_the_run() -> None:
    events = [*steps(1, 50, at=0), went_on(40, 2, at=20), *steps(41, 70, at=21)]
    events += [went_on(60, 2, at=40), *steps(61, 80, at=41)]
    first, second = (kill_of(events, killed_at=at, job="student") for at in (4.9, 23.9))
    assert (first.at_step, first.lost, second.at_step, second.lost) == (50, 10, 70, 10)


def test_kills_are_spread_over_kinds_in_order_of_time_and_equal_for_equal_seeds() -> None:
    made = kill_plans(list(KINDS), 21, seed=3)
    kills = Counter[str]()
    for plan in made:
        kills[plan.kind] += len(plan.moments)
        assert list(plan.moments) == sorted(plan.moments)
        assert plan.moments[0] > 0 and plan.moments[-1] <= KINDS[plan.kind].latest
        assert len(plan.moments) <= KINDS[plan.kind].per_run
    assert kills.total() == 21 and max(kills.values()) - min(kills.values()) <= 1
    assert made == kill_plans(list(KINDS), 21, seed=3) != kill_plans(list(KINDS), 21, seed=4)


WORKER = KillResult(
    KillPlan("worker", (0.1, 0.5), 0),
    (Kill(41, 1, 9.0, 2), Kill(212, 12, 11.0, 2)),
    survived=True,
    differences={"student/model.safetensors": 0.0},
)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (replace(WORKER), ""),
        (replace(WORKER, survived=False, differences={}), "didn't survive"),
        (replace(WORKER, kills=WORKER.kills[:1]), "1 kills came too late"),
        (replace(WORKER, kills=(Kill(400, None, None),)), "wasn't seen to go on"),
        (replace(WORKER, differences={"a": 1e-9}), "differs"),
        (replace(WORKER, differences={"a": math.nan}), "differs"),
        (replace(WORKER, differences={}), "differs"),
        (replace(WORKER, kills=(Kill(90, 41, 3.0), Kill(91, 1, 3.0))), "41 steps were lost"),
        (replace(WORKER, plan=KillPlan("fewer", (0.1, 0.5), 0), differences={"a": 1e-3}), ""),
        (
            replace(WORKER, plan=KillPlan("fewer", (0.1, 0.5), 0), differences={"a": 0.1}),
            "differs",
        ),
    ],
)
def test_what_should_not_happen_is_a_problem(changed: KillResult, said: str) -> None:
    problems = changed.problems(save_steps=20, tolerance=1e-2)
    assert (said in "; ".join(problems)) if said else not problems


def test_the_table_counts_kills_and_takes_medians_and_the_largest_of_a_kind() -> None:
    settings = {"kinds": list(KINDS), "kills": 2, "seed": 0, "steps": 400, "save_steps": 20}
    report = ChaosReport((WORKER,), {**settings, "tolerance": 0.01}, undisturbed_s=60.0)
    (cells,) = rows(report)
    assert cells[1:] == ["2", "1", "1", "6.5", "12", "10.0", "11.0", "equal bit for bit"]
    assert " | ".join(cells) in page(report)
    assert json.loads(json.dumps(report.to_dict()))["rounds"][0]["kills"][1]["lost"] == 12


def artifact(storage: Path, stage: str, name: str, files: dict[str, str]) -> Path:
    folder = storage / "chaos" / stage / name
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


def test_weights_differ_by_a_share_of_their_tensors_largest(tmp_path: Path) -> None:
    weights = np.array([1.0, -4.0, 2.0], np.float32)
    for place, digest, values in (("a", "1", weights), ("b", "2", weights * 1.125)):
        folder = artifact(tmp_path / place, "distill", "s", {"checkpoints/w.safetensors": digest})
        save_file({"w": values.astype(np.float32)}, folder / "checkpoints" / "w.safetensors")
    found = differences("distill", tmp_path / "a", tmp_path / "b")
    assert found == {"s/checkpoints/w.safetensors": 0.125}
    assert differences("distill", tmp_path / "a", tmp_path / "c") == {
        "s/checkpoints/w.safetensors": math.inf
    }


def test_outcomes_of_probes_are_equal_whatever_time_they_took(tmp_path: Path) -> None:
    for place, took, gain in (("a", 1.0, 0.5), ("b", 2.0, 0.5), ("c", 1.0, 0.25)):
        folder = artifact(tmp_path / place, "probe", "p", {"outcome.json": place})
        outcome = {"gain": gain, "log": [{"step": 1, "stall_s": took}]}
        (folder / "outcome.json").write_text(json.dumps(outcome))
    made = tmp_path / "a"
    assert differences("probe", made, tmp_path / "b") == {"p/outcome.json": 0.0}
    assert differences("probe", made, tmp_path / "c") == {"p/outcome.json": math.inf}


def test_a_copied_run_lacks_the_stage_under_test_alone(tmp_path: Path) -> None:
    for stage in ("probe", "distill", "audit"):
        artifact(tmp_path / "made", stage, "x", {})
    (tmp_path / "made" / "chaos" / ".state").mkdir()
    found = copied(tmp_path / "made", tmp_path / "copy", "distill")
    assert {path.name for path in (found / "chaos").iterdir()} == {"audit", "probe"}
    assert (found / "chaos" / "probe" / "x" / "manifest.json").is_file()


def test_the_runs_config_is_valid(tmp_path: Path) -> None:
    cfg = load_config(write(tmp_path))
    assert cfg.distill.num_steps(cfg.corpora.sequence_length) == 400


def test_processes_below_one_are_found_and_ended_by_their_own_identity() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as parent:
        while not (found := below(parent.pid)):
            pass
        assert parent.pid in {process.pid for process in below(os.getpid())}
        (child,) = found
        assert child.alive() and "input()" in child.command
        replace(child, started=child.started - 1).kill()  # An earlier bearer of its number.
        assert child.alive()
        child.kill()
        assert parent.wait(30) == 0
        assert not child.alive()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_worker_and_a_killed_driver_change_nothing(tmp_path: Path) -> None:
    out, page_file = tmp_path / "found.json", tmp_path / "page.md"
    command = [sys.executable, "-m", "distill_ray", "bench", "chaos", "--kills", "2"]
    command += ["--kind", "worker", "--kind", "driver", "--json", str(out)]
    done = subprocess.run(
        [*command, "--out", str(page_file)], capture_output=True, text=True, timeout=1400
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert found["problems"] == []
    for result in found["rounds"]:
        (kill,) = result["kills"]
        assert result["survived"] and result["difference"] == 0.0
        assert 0 <= kill["lost"] <= 40 and kill["recovery_s"] > 0
    assert "2 kills in 2 runs, 2 survived" in page_file.read_text()
