"""One disturbed run: wait for each planned moment, kill something, wait for the run's end."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from math import ceil
from pathlib import Path

from distill_ray.bench.chaos.config import NAME
from distill_ray.bench.chaos.driver import Driver
from distill_ray.bench.chaos.nodes import Nodes
from distill_ray.bench.chaos.outcomes import Kill, KillPlan, Kind, TimedEvent, kill_of
from distill_ray.bench.harness.descendants import Process

JOB = "student"
"""The training that is disturbed; the control's, after it, shows that work goes on."""
PATIENCE_S = 900.0
"""Seconds to wait for anything that a run should reach."""
NOTICE_S = 12
"""Seconds between the notice that a node goes and its loss; clouds give 30 to 120 s. The run takes
less to see the notice, and its remaining training takes longer."""
POLL_S = 0.002
"""Seconds between two looks for a checkpoint that is being uploaded."""
MAX_STARTS = 3
"""Starts of a run that fails before anything was killed."""
STEPS_BEFORE_SWITCH = 8
"""Kills at a switch come fewer than this many steps before it, by the events."""
TRIAL = "ImplicitFunc"
"""Ray Tune's name for the processes of its trials."""


class RunUnderTest:
    """A run in progress, with the ways to kill parts of it."""

    def __init__(
        self,
        plan: KillPlan,
        driver: Driver,
        storage: Path,
        *,
        steps: int,
        switches: Sequence[int],
        trial_s: float,
        nodes: Nodes,
    ) -> None:
        """Take over a run that has just started.

        Args:
            plan: when to kill, and what.
            driver: the run's command.
            storage: the run's storage.
            steps: steps of its training.
            switches: steps at which its teacher changes.
            trial_s: how long a probe takes.
            nodes: its cluster's nodes.
        """
        self.driver, self.nodes, self.kills = driver, nodes, list[Kill]()
        self._plan, self._storage, self._steps = plan, storage, steps
        self._switches, self._trial_s = switches, trial_s
        self._random = random.Random(plan.seed)

    def to_the_end(self, kind: Kind) -> int | None:
        """Kill at every planned moment, and wait for the run's end.

        Returns:
            The exit code; None if the run never ended.
        """
        for _ in range(MAX_STARTS):
            self._go_through(kind)
            code = self.driver.wait(PATIENCE_S)
            if code in (0, None) or self.kills:
                break
            self.driver.start()  # An overloaded machine may be too slow for Ray's start.
        return code

    def _go_through(self, kind: Kind) -> None:
        """Kill at every planned moment, as long as work goes on after each kill."""
        kill = self._kill_trial if kind.stage == "probe" else self._kill_training
        for moment in self._plan.moments:
            result = kill(moment)
            if result is None:
                return
            self.kills.append(result)
            if result.recovery_s is None:
                return

    def _kill_training(self, moment: float) -> Kill | None:
        step = ceil(moment * self._steps)
        if self._plan.kind == "switch":
            nearest = min(self._switches, key=lambda switch: abs(switch - step))
            step = max(1, nearest - self._random.randrange(STEPS_BEFORE_SWITCH))
        if not self.driver.wait_for(lambda events: _latest_step(events) >= step, PATIENCE_S):
            return None
        outcome = KILLS[self._plan.kind](self)
        if outcome is None:
            return None
        killed_at, facts = outcome

        def goes_on(events: Sequence[TimedEvent]) -> bool:
            return kill_of(events, killed_at, JOB).recovery_s is not None

        self.driver.wait_for(goes_on, PATIENCE_S)
        return kill_of(self.driver.events, killed_at, JOB, **facts)

    def _kill_trial(self, moment: float) -> Kill | None:
        """Kill a probe's process. Its steps are not known, so recovery is a new process."""
        if not self._one_of(TRIAL):
            return None
        time.sleep(moment * self._trial_s)
        victim = self._one_of(TRIAL)
        if victim is None:
            return None
        before = {process.pid for process in self.nodes.below(TRIAL)}
        killed_at = time.monotonic()
        victim.kill()
        while not self.driver.over() and time.monotonic() < killed_at + PATIENCE_S:
            if any(process.pid not in before for process in self.nodes.below(TRIAL)):
                return Kill(0, None, time.monotonic() - killed_at)
            time.sleep(0.1)
        return Kill(0, None, None)

    def _one_of(self, word: str) -> Process | None:
        """Wait for a process with this word in its command; None if the run ends before."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.driver.over() and time.monotonic() < deadline:
            if processes := self.nodes.below(word):
                return self._random.choice(processes)
            time.sleep(0.2)
        return None

    def kill_worker(self) -> tuple[float, dict[str, object]] | None:
        """Kill a training worker."""
        victim = self._one_of("RayTrainWorker")
        if victim is None:
            return None
        killed_at = time.monotonic()
        victim.kill()
        return killed_at, {}

    def kill_uploading(self) -> tuple[float, dict[str, object]] | None:
        """Kill a worker as soon as the first files of a new checkpoint appear."""
        workers, old = self.nodes.below("RayTrainWorker"), set(self._checkpoints())
        while not self.driver.over() and workers:
            new = [folder for folder in self._checkpoints() if folder not in old]
            if new:
                killed_at = time.monotonic()
                self._random.choice(workers).kill()
                time.sleep(0.5)  # For other workers' files that are on their way.
                return killed_at, {"sealed": len(list(new[0].glob("seal-*.json"))) == len(workers)}
            time.sleep(POLL_S)
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self._storage / NAME / ".state").glob("train-*/checkpoint_*"))

    def kill_driver(self) -> tuple[float, dict[str, object]] | None:
        """Kill the command itself, and start it again."""
        killed_at = time.monotonic()
        self.driver.kill()
        self.driver.start()
        return killed_at, {}

    def kill_node(self) -> tuple[float, dict[str, object]] | None:
        """Lose the node beside the head, and add another."""
        killed_at = time.monotonic()
        self.nodes.ask("lose")
        self.nodes.ask("add")
        return killed_at, {}

    def kill_node_for_good(self) -> tuple[float, dict[str, object]] | None:
        """Lose the node beside the head, without a replacement."""
        killed_at = time.monotonic()
        self.nodes.ask("lose")
        return killed_at, {}

    def drain_node(self) -> tuple[float, dict[str, object]] | None:
        """Lose a node as a spot market does: announce it, add another, then take it."""
        announced = time.monotonic()
        self.nodes.ask("drain", deadline_s=NOTICE_S)
        self.nodes.ask("add")
        time.sleep(max(0.0, announced + NOTICE_S - time.monotonic()))
        step_times = (event.time_s for event in self.driver.events if _is_step(event))
        killed_at = min(max(step_times, default=announced), time.monotonic())
        self.nodes.ask("lose")
        return killed_at, {"notice_s": NOTICE_S}


KILLS: dict[str, Callable[[RunUnderTest], tuple[float, dict[str, object]] | None]] = {
    "worker": RunUnderTest.kill_worker,
    "upload": RunUnderTest.kill_uploading,
    "switch": RunUnderTest.kill_worker,
    "driver": RunUnderTest.kill_driver,
    "node": RunUnderTest.kill_node,
    "fewer": RunUnderTest.kill_node_for_good,
    "drain": RunUnderTest.drain_node,
}
"""Kind → what kills something in training; returns when, with other facts about it."""


def _is_step(event: TimedEvent) -> bool:
    return event.text.startswith(f"{JOB}: loss")


def _latest_step(events: Sequence[TimedEvent]) -> float:
    """The last step that was reported."""
    return next((event.completed or 0 for event in reversed(events) if _is_step(event)), 0)
