"""`bench chaos`: kill a run again and again at random moments, and measure what it costs.

Imports neither torch nor Ray: the runs and the nodes of their cluster are processes of their own.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from distill_ray.bench.chaos.compare import differences
from distill_ray.bench.chaos.config import FILE, NAME, SAVE_EVERY, STEPS, WORKERS, copied, write
from distill_ray.bench.chaos.driver import Driver
from distill_ray.bench.chaos.kill import PATIENCE_S, RunUnderTest
from distill_ray.bench.chaos.nodes import Nodes
from distill_ray.bench.chaos.outcomes import KINDS, KillPlan, KillResult, kill_plans
from distill_ray.bench.harness.machine import provenance

TOLERANCE = 1e-4
"""Share of a tensor's largest weight by which weights may differ where workers became fewer."""
MADE = "made"
"""Folder of the undisturbed run's storage."""


@dataclass(frozen=True)
class ChaosReport:
    """What `bench chaos` found."""

    rounds: tuple[KillResult, ...]
    settings: dict[str, Any]
    undisturbed_s: float
    """Seconds that all stages of the run take when nothing is killed."""
    environment: dict[str, Any] = field(default_factory=provenance)

    @property
    def problems(self) -> list[str]:
        """What should not have happened, as one line each."""
        return [
            f"run {number} ({result.plan.kind}): {text}"
            for number, result in enumerate(self.rounds, start=1)
            for text in result.problems(SAVE_EVERY, TOLERANCE)
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, enough to repeat it."""
        return {
            "bench": "chaos",
            "settings": self.settings,
            "environment": self.environment,
            "undisturbed_s": self.undisturbed_s,
            "rounds": [result.to_dict() for result in self.rounds],
            "problems": self.problems,
        }


def chaos(
    folder: Path, kinds: Sequence[str], kills: int, seed: int, tell: Callable[[str], None]
) -> ChaosReport:
    """Run a small run undisturbed, then again and again while something is killed.

    Args:
        folder: holds all runs; a complete undisturbed run in it is reused.
        kinds: names in `KINDS`.
        kills: how many, of all kinds together.
        seed: decides the moments and the victims.
        tell: gets a line after each run.
    """
    plans = kill_plans(kinds, kills, seed)
    bench = _Bench(folder, tell)
    undisturbed_s = bench.run_undisturbed()
    with closing(bench.start_nodes()):
        rounds = [bench.disturb(number, plan) for number, plan in enumerate(plans, start=1)]
    settings = {"kinds": list(kinds), "kills": kills, "seed": seed, "workers": WORKERS}
    settings |= {"steps": STEPS, "save_steps": SAVE_EVERY, "tolerance": TOLERANCE}
    return ChaosReport(tuple(rounds), settings, undisturbed_s)


class _Bench:
    """The undisturbed run, and the cluster for the disturbed ones."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        ours = {"RAY_TMPDIR": str(folder / "ray"), "DISTILL_RAY_CACHE": str(folder / "cache")}
        self._env = {**inherited, **ours}

    def run_undisturbed(self) -> float:
        """Run up to the students without a kill, if not done yet; return the seconds it took."""
        config, note = write(self._folder), self._folder / "made.json"
        if note.is_file():
            return float(json.loads(note.read_text())["seconds"])
        self._tell("making the undisturbed run")
        began = time.monotonic()
        with closing(self._driver(["distill", str(config)], "made")) as driver:
            if driver.wait(PATIENCE_S) != 0:
                raise RuntimeError(f"the undisturbed run failed:\n{driver.last_words()}")
        seconds = time.monotonic() - began
        note.write_text(json.dumps({"seconds": seconds}))
        return seconds

    def start_nodes(self) -> Nodes:
        """Start the cluster for all disturbed runs."""
        self._env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            # Short, as the notices are.
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        }
        self._nodes = Nodes(self._env, self._folder / "nodes.log")
        return self._nodes

    def _driver(self, arguments: Sequence[str], name: str) -> Driver:
        return Driver(arguments, self._env, self._folder / f"{name}.log")

    def disturb(self, number: int, plan: KillPlan) -> KillResult:
        """Run the stage under test once, with its kills."""
        kind, name = KINDS[plan.kind], f"run-{number}"
        storage = copied(self._folder / MADE, self._folder / name, kind.stage)
        address = self._nodes.ask("have", count=WORKERS - 1)["address"]
        began = time.monotonic()
        arguments = [kind.stage, str(self._folder / FILE), "--storage", str(storage)]
        arguments += ["--set", f"cluster.address={address}"]
        if kind.fewest is not None:
            arguments += ["--set", f"cluster.min_workers={kind.fewest}"]
        with closing(self._driver(arguments, name)) as driver:
            disturbed = RunUnderTest(
                plan,
                driver,
                storage,
                steps=STEPS,
                switches=self._switches(),
                trial_s=self._trial_s(),
                nodes=self._nodes,
            )
            code = disturbed.to_the_end(kind)
        by_file = differences(kind.stage, self._folder / MADE, storage) if code == 0 else {}
        survived = code == 0
        output = "" if survived else f"exit code {code}\n{driver.last_words()}"
        kills, seconds = tuple(disturbed.kills), time.monotonic() - began
        result = KillResult(plan, kills, survived, by_file, seconds, output)
        self._tell(f"{name}: {summary(result)}")
        if not result.problems(SAVE_EVERY, TOLERANCE):
            shutil.rmtree(storage)  # A run with problems stays in the folder to be looked at.
        return result

    def _switches(self) -> list[int]:
        """Steps at which the student's teacher changed."""
        (file,) = (self._folder / MADE / NAME / "distill").glob("student-*/curve.json")
        return [switch["step"] for switch in json.loads(file.read_text())["switches"]]

    def _trial_s(self) -> float:
        """Median seconds of a probe."""
        files = (self._folder / MADE / NAME / "probe").glob("*/manifest.json")
        return median(float(json.loads(file.read_text())["wall_s"]) for file in files)


def summary(result: KillResult) -> str:
    """Describe a run in a line."""
    parts = [
        f"step {kill.at_step}: {kill.lost} lost, "
        + ("never went on" if kill.recovery_s is None else f"on after {kill.recovery_s:.1f} s")
        for kill in result.kills
    ]
    end = "survived" if result.survived else f"lost: {result.output}"
    difference = "" if result.difference is None else f", difference {result.difference:.2g}"
    return f"{result.plan.kind}, {'; '.join(parts) or 'no kill'}; {end}{difference}"
