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
from distill_ray.bench.chaos.outcomes import Kill, KillPlan, Kind, Seen, kill_of
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
        course: KillPlan,
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
            course: what is to happen.
            driver: the run.
            storage: of the run.
            steps: of the training.
            switches: steps at which its teacher changes.
            trial_s: how long a probe takes.
            nodes: of its cluster.
        """
        self.driver, self.nodes, self.kills = driver, nodes, list[Kill]()
        self._course, self._storage, self._steps = course, storage, steps
        self._switches, self._trial_s = switches, trial_s
        self._draw = random.Random(course.seed)

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
        for moment in self._course.moments:
            done = kill(moment)
            if done is None:
                return
            self.kills.append(done)
            if done.recovery_s is None:
                return

    def _kill_training(self, moment: float) -> Kill | None:
        step = ceil(moment * self._steps)
        if self._course.kind == "switch":
            nearest = min(self._switches, key=lambda at: abs(at - step))
            step = max(1, nearest - self._draw.randrange(AROUND))
        if not self.driver.wait_for(lambda seen: _step(seen) >= step, PATIENCE_S):
            return None
        found = KILLS[self._course.kind](self)
        if found is None:
            return None
        at, facts = found

        def goes_on(seen: Sequence[Seen]) -> bool:
            return kill_of(seen, at, JOB).recovery_s is not None

        self.driver.wait_for(goes_on, PATIENCE_S)
        return kill_of(self.driver.seen, at, JOB, **facts)

    def _kill_trial(self, moment: float) -> Kill | None:
        """One of the probes' processes; it is known by its outcome alone how far it was."""
        if not self._one_of(TRIAL):
            return None
        time.sleep(moment * self._trial_s)
        victim = self._one_of(TRIAL)
        if victim is None:
            return None
        before = {process.pid for process in self.nodes.below(TRIAL)}
        at = time.monotonic()
        victim.kill()
        while not self.driver.over() and time.monotonic() < at + PATIENCE_S:
            if any(process.pid not in before for process in self.nodes.below(TRIAL)):
                return Kill(0, None, time.monotonic() - at)
            time.sleep(0.1)
        return Kill(0, None, None)

    def _one_of(self, word: str) -> Process | None:
        """A process of the run, as soon as there is one; None if the run ends before."""
        until = time.monotonic() + PATIENCE_S
        while not self.driver.over() and time.monotonic() < until:
            if found := self.nodes.below(word):
                return self._draw.choice(found)
            time.sleep(0.2)
        return None

    def kill_worker(self) -> tuple[float, dict[str, object]] | None:
        """One of those that train."""
        victim = self._one_of("RayTrainWorker")
        if victim is None:
            return None
        at = time.monotonic()
        victim.kill()
        return at, {}

    def kill_uploading(self) -> tuple[float, dict[str, object]] | None:
        """A worker as soon as the files of a new checkpoint begin to be there."""
        workers, old = self.nodes.below("RayTrainWorker"), set(self._checkpoints())
        while not self.driver.over() and workers:
            new = [folder for folder in self._checkpoints() if folder not in old]
            if new:
                at = time.monotonic()
                self._draw.choice(workers).kill()
                time.sleep(0.5)  # What was on its way has come, or never comes.
                return at, {"sealed": len(list(new[0].glob("seal-*.json"))) == len(workers)}
            time.sleep(LOOK_S)
        return None

    def _checkpoints(self) -> list[Path]:
        return sorted((self._storage / NAME / ".state").glob("train-*/checkpoint_*"))

    def kill_driver(self) -> tuple[float, dict[str, object]] | None:
        """The command itself; it is given again."""
        at = time.monotonic()
        self.driver.kill()
        self.driver.start()
        return at, {}

    def kill_node(self) -> tuple[float, dict[str, object]] | None:
        """The node beside the head; another one comes."""
        at = time.monotonic()
        self.nodes.ask("lose")
        self.nodes.ask("add")
        return at, {}

    def kill_node_for_good(self) -> tuple[float, dict[str, object]] | None:
        """The node beside the head; none comes."""
        at = time.monotonic()
        self.nodes.ask("lose")
        return at, {}

    def drain_node(self) -> tuple[float, dict[str, object]] | None:
        """As the spot market does it: announced, with another one in its place, then gone."""
        announced = time.monotonic()
        self.nodes.ask("drain", deadline_s=NOTICE_S)
        self.nodes.ask("add")
        time.sleep(max(0.0, announced + NOTICE_S - time.monotonic()))
        last = max((event.at for event in self.driver.seen if _is_step(event)), default=announced)
        at = min(last, time.monotonic())
        self.nodes.ask("lose")
        return at, {"notice_s": NOTICE_S}


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


def _is_step(event: Seen) -> bool:
    return event.text.startswith(f"{JOB}: loss")


def _step(seen: Sequence[Seen]) -> float:
    """The latest step that was told."""
    return next((event.completed or 0 for event in reversed(seen) if _is_step(event)), 0)
