"""One disturbed run: reaches its moments, kills what is to be killed, waits for its end."""

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
from distill_ray.bench.chaos.processes import Process

JOB = "student"
"""The training that is disturbed; the control's behind it shows that work goes on."""
PATIENCE_S = 900.0
"""For anything that a run is to come to."""
NOTICE_S = 12
"""Between the announcement that a node goes and its loss; clouds give 30 to 120 s. More than the
run takes to look for it, less than the rest of the training."""
LOOK_S = 0.002
"""Between two looks for a checkpoint that is being uploaded."""
STARTS = 3
"""Of a run that fails before anything has been done to it."""
AROUND = 8
"""Kills at a switch fall at most so many steps before it, as far as events tell."""
TRIAL = "ImplicitFunc"
"""What Ray calls the processes of its trials."""


class RunUnderTest:
    """A run at work, and what can be done to it."""

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
        """Take over a run that has just been started.

        Args:
            plan: what is to happen.
            driver: the run.
            storage: of the run.
            steps: of the training.
            switches: steps at which its teacher changes.
            trial_s: how long a probe takes.
            nodes: of its cluster.
        """
        self.driver, self.nodes, self.kills = driver, nodes, list[Kill]()
        self._plan, self._storage, self._steps = plan, storage, steps
        self._switches, self._trial_s = switches, trial_s
        self._draw = random.Random(plan.seed)

    def to_the_end(self, kind: Kind) -> int | None:
        """Kill at every moment, and wait for the end.

        Returns:
            The exit code; None if it never ended.
        """
        for _ in range(STARTS):
            self._go_through(kind)
            code = self.driver.wait(PATIENCE_S)
            if code in (0, None) or self.kills:
                break
            self.driver.start()  # An overloaded machine may be too slow for Ray's start.
        return code

    def _go_through(self, kind: Kind) -> None:
        """Kill at every moment, each time work goes on; ends early if the run does."""
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
            step = max(1, nearest - self._draw.randrange(AROUND))
        if not self.driver.wait_for(lambda events: _step(events) >= step, PATIENCE_S):
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
        """One of the probes' processes; it is known by its outcome alone how far it was."""
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
        """A process of the run, as soon as there is one; None if the run ends before."""
        until = time.monotonic() + PATIENCE_S
        while not self.driver.over() and time.monotonic() < until:
            if processes := self.nodes.below(word):
                return self._draw.choice(processes)
            time.sleep(0.2)
        return None

    def kill_worker(self) -> tuple[float, dict[str, object]] | None:
        """One of those that train."""
        victim = self._one_of("RayTrainWorker")
        if victim is None:
            return None
        killed_at = time.monotonic()
        victim.kill()
        return killed_at, {}

    def kill_uploading(self) -> tuple[float, dict[str, object]] | None:
        """A worker as soon as the files of a new checkpoint begin to be there."""
        workers, old = self.nodes.below("RayTrainWorker"), set(self._checkpoints())
        while not self.driver.over() and workers:
            new = [folder for folder in self._checkpoints() if folder not in old]
            if new:
                killed_at = time.monotonic()
                self._draw.choice(workers).kill()
                time.sleep(0.5)  # What was on its way has come, or never comes.
                return killed_at, {"sealed": len(list(new[0].glob("seal-*.json"))) == len(workers)}
            time.sleep(LOOK_S)
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self._storage / NAME / ".state").glob("train-*/checkpoint_*"))

    def kill_driver(self) -> tuple[float, dict[str, object]] | None:
        """The command itself; it is given again."""
        killed_at = time.monotonic()
        self.driver.kill()
        self.driver.start()
        return killed_at, {}

    def kill_node(self) -> tuple[float, dict[str, object]] | None:
        """The node beside the head; another one comes."""
        killed_at = time.monotonic()
        self.nodes.ask("lose")
        self.nodes.ask("add")
        return killed_at, {}

    def kill_node_for_good(self) -> tuple[float, dict[str, object]] | None:
        """The node beside the head; none comes."""
        killed_at = time.monotonic()
        self.nodes.ask("lose")
        return killed_at, {}

    def drain_node(self) -> tuple[float, dict[str, object]] | None:
        """As the spot market does it: announced, with another one in its place, then gone."""
        announced = time.monotonic()
        self.nodes.ask("drain", deadline_s=NOTICE_S)
        self.nodes.ask("add")
        time.sleep(max(0.0, announced + NOTICE_S - time.monotonic()))
        last = max(
            (event.time_s for event in self.driver.events if _is_step(event)), default=announced
        )
        killed_at = min(last, time.monotonic())
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
"""Kind → what is done at a moment of the training; when, and what else is known of it."""


def _is_step(event: TimedEvent) -> bool:
    return event.text.startswith(f"{JOB}: loss")


def _step(events: Sequence[TimedEvent]) -> float:
    """The latest step that was told."""
    return next((event.completed or 0 for event in reversed(events) if _is_step(event)), 0)
