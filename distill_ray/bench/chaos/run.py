"""`bench chaos`: a run is killed again and again at random moments. What does that cost?

Imports neither torch nor Ray: the runs, and the nodes of their cluster, are processes of their own.
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
"""Of a tensor's largest weight: what other sums may come to where workers became fewer."""
MADE = "made"


@dataclass(frozen=True)
class ChaosReport:
    """What `bench chaos` found."""

    rounds: tuple[KillResult, ...]
    settings: dict[str, Any]
    undisturbed_s: float
    """How long the run under test takes to be made, all its stages, when nothing is killed."""
    environment: dict[str, Any] = field(default_factory=provenance)

    @property
    def problems(self) -> list[str]:
        """What should not have happened, a line each."""
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
    """Make a small run undisturbed, then again and again while something is killed.

    Args:
        folder: for all of it; an undisturbed run that is whole there is taken as it is.
        kinds: names in `KINDS`.
        kills: of all kinds together.
        seed: of the moments and the victims.
        tell: gets a line now and then.
    """
    planned = kill_plans(kinds, kills, seed)
    bench = _Bench(folder, tell)
    took = bench.make()
    with closing(bench.start_nodes()):
        rounds = [bench.disturb(number, plan) for number, plan in enumerate(planned, start=1)]
    settings = {"kinds": list(kinds), "kills": kills, "seed": seed, "workers": WORKERS}
    settings |= {"steps": STEPS, "save_steps": SAVE_EVERY, "tolerance": TOLERANCE}
    return ChaosReport(tuple(rounds), settings, took)


class _Bench:
    """The undisturbed run, and the cluster for the disturbed ones."""

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self._folder, self._tell = folder, tell
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
        ours = {"RAY_TMPDIR": str(folder / "ray"), "DISTILL_RAY_CACHE": str(folder / "cache")}
        self._env = {**inherited, **ours}

    def make(self) -> float:
        """The undisturbed run, up to its students; how long it took."""
        config, note = write(self._folder), self._folder / "made.json"
        if note.is_file():
            return float(json.loads(note.read_text())["seconds"])
        self._tell("making the undisturbed run")
        began = time.monotonic()
        with closing(self._driver(["distill", str(config)], "made")) as driver:
            if driver.wait(PATIENCE_S) != 0:
                raise RuntimeError(f"the undisturbed run failed:\n{driver.last_words()}")
        took = time.monotonic() - began
        note.write_text(json.dumps({"seconds": took}))
        return took

    def start_nodes(self) -> Nodes:
        """The cluster for all disturbed runs."""
        self._env |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            # Looks for nodes that are about to go as often as a short notice needs it.
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
        }
        self._nodes = Nodes(self._env, self._folder / "nodes.log")
        return self._nodes

    def _driver(self, arguments: Sequence[str], name: str) -> Driver:
        return Driver(arguments, self._env, self._folder / f"{name}.log")

    def disturb(self, number: int, plan: KillPlan) -> KillResult:
        """One run of the stage under test, with its kills."""
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
        by_artifact = differences(kind.stage, self._folder / MADE, storage) if code == 0 else {}
        survived = code == 0
        words = "" if survived else f"exit code {code}\n{driver.last_words()}"
        kills, took = tuple(disturbed.kills), time.monotonic() - began
        result = KillResult(plan, kills, survived, by_artifact, took, words)
        self._tell(f"{name}: {summary(result)}")
        if not result.problems(SAVE_EVERY, TOLERANCE):
            shutil.rmtree(storage)  # Else it stays for a look at it, where the folder does.
        return result

    def _switches(self) -> list[int]:
        """Steps at which the student's teacher changed."""
        (file,) = (self._folder / MADE / NAME / "distill").glob("student-*/curve.json")
        return [switch["step"] for switch in json.loads(file.read_text())["switches"]]

    def _trial_s(self) -> float:
        """How long a probe took."""
        files = (self._folder / MADE / NAME / "probe").glob("*/manifest.json")
        return median(float(json.loads(file.read_text())["wall_s"]) for file in files)


def summary(result: KillResult) -> str:
    """A run in a line."""
    parts = [
        f"step {kill.at_step}: {kill.lost} lost, "
        + ("never went on" if kill.recovery_s is None else f"on after {kill.recovery_s:.1f} s")
        for kill in result.kills
    ]
    end = "survived" if result.survived else f"lost: {result.output}"
    apart = "" if result.difference is None else f", difference {result.difference:.2g}"
    return f"{result.plan.kind}, {'; '.join(parts) or 'no kill'}; {end}{apart}"
