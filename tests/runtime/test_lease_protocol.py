"""The protocol of leases under many interleavings: never do two processes write at once.

Processes are threads of which one runs at a time, up to its next storage operation. A seeded
scheduler chooses who goes on, for how long one is stopped, and who is killed. The clock is the
scheduler's. So schedules are tried that real processes would meet once in years.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from distill_ray.config.errors import InputError
from distill_ray.runtime import acquisition, claims, lease
from distill_ray.runtime.acquisition import Acquisition, Pace
from distill_ray.runtime.claims import Claim, Claims
from distill_ray.runtime.storage import Storage

PACE = Pace(interval_s=1.0, dead_after_s=10.0, poll_s=0.5)
OPERATION_S = 0.02
STEPS = 600


def _closed_gate() -> threading.Lock:
    """Passed once after each release: a lock is much faster than a semaphore."""
    gate = threading.Lock()
    gate.acquire()
    return gate


class Killed(BaseException):
    """Ends a process's thread."""


class World:
    """The storage, the clock, and whose turn it is."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.stored: dict[str, Claim] = {}
        self.owners: dict[str, Actor] = {}
        self.num_written = self.num_deposed = 0
        self.actors = [Actor(self, f"actor {i}") for i in range(self.random.randrange(2, 6))]
        self.scheduler = _closed_gate()
        self.current: Actor | None = None

    def run(self) -> None:
        """Let actors go on one at a time, until all have ended."""
        for _ in range(STEPS):
            ready = [a for a in self.actors if not a.ended and a.until_s <= self.now_s]
            if not ready:
                if all(a.ended for a in self.actors):
                    return
                self.now_s = min(a.until_s for a in self.actors if not a.ended)
                continue
            actor = self.random.choice(ready)
            if not actor.writes and self.random.random() < 0.03:  # Stopped, or its request hangs.
                actor.until_s = self.now_s + self.random.choice((0.3, 3, 8, 15, 60))
                continue
            actor.killed = self.random.random() < 0.002
            self._resume(actor)
            self.now_s += OPERATION_S
            self.num_written += actor.writes
            holders = [a for a in self.actors if a.writes]
            assert len(holders) <= 1, [a.name for a in holders]
        for actor in self.actors:
            actor.killed = True
            while not actor.ended:
                self._resume(actor)

    def _resume(self, actor: Actor) -> None:
        self.current = actor
        actor.turn.release()
        self.scheduler.acquire()

    def operation(self, act: Callable[[], Any] = lambda: None, seconds: float = 0.0) -> Any:
        """Wait for the next turn, then do one atomic thing."""
        actor = self.current
        assert actor is not None
        actor.until_s = self.now_s + seconds
        self.scheduler.release()
        actor.turn.acquire()
        if actor.killed:
            raise Killed
        return act()


class Actor:
    """A process: it takes the lease, writes as long as it holds it, and releases it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.turn, self.until_s = _closed_gate(), 0.0
        self.ended = self.killed = self.writes = False
        self.thread = threading.Thread(target=self._live, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        self.turn.acquire()
        try:
            while not self.killed:
                self._once()
                self.world.operation(seconds=self.world.random.choice((0, 0.5, 5)))
        except Killed:
            pass
        self.writes, self.ended = False, True
        self.world.scheduler.release()

    def _once(self) -> None:
        wait = self.world.random.random() < 0.5
        attempt = Acquisition(Storage("/nowhere"), PACE, wait=wait, notify=lambda _: None)
        try:
            attempt.run()
        except InputError:
            return
        keeper = lease._Keeper(Storage("/nowhere"), attempt, PACE.interval_s)
        for _ in range(self.world.random.randrange(12)):
            try:
                keeper.check()
            except InputError:
                return
            # Stopped between its check and its write for longer than a third of what makes it dead,
            # a process would still write: no storage offers more without conditional writes.
            self.writes = True
            self.world.operation(seconds=self.world.random.choice((0, 1, 3)))
            self.writes = False
            self.world.operation()
            keeper._renew()
        keeper.release()


class StoredClaims(Claims):
    """Claims in the world's storage; every operation is another turn."""

    world: World

    def __init__(self, run: Storage) -> None:
        pass

    def put(self, claim: Claim) -> None:
        self.world.owners[claim.id] = self.world.current  # type: ignore[assignment]
        self.world.num_deposed += len(claim.deposed)
        self.world.operation(lambda: self.world.stored.__setitem__(claim.id, claim))

    def get(self, claim_id: str) -> Claim | None:
        return self.world.operation(lambda: self.world.stored.get(claim_id))

    def others(self, claim_id: str) -> dict[str, Claim]:
        names = self.world.operation(lambda: set(self.world.stored))
        read = {other: self.get(other) for other in sorted(names - {claim_id})}
        return {other: claim for other, claim in read.items() if claim is not None}

    def exists(self, claim_id: str) -> bool:
        return bool(self.world.operation(lambda: claim_id in self.world.stored))

    def delete(self, claim_id: str) -> None:
        self.world.operation(lambda: self.world.stored.pop(claim_id, None))


@pytest.fixture(scope="module")
def worlds() -> Iterator[Callable[[int], World]]:
    """What makes a world from a seed. One at a time."""

    def make(seed: int) -> World:
        StoredClaims.world = World(seed)
        return StoredClaims.world

    def sleep(seconds: float) -> None:
        StoredClaims.world.operation(seconds=seconds)

    def clock() -> float:
        return StoredClaims.world.now_s

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(acquisition, "Claims", StoredClaims)
        patch.setattr(acquisition, "time", SimpleNamespace(sleep=sleep, monotonic=clock))
        patch.setattr(acquisition, "now", clock)
        patch.setattr(lease, "now", clock)
        patch.setattr(claims, "_machine", str)  # Constant, and much faster than the real one.
        patch.setattr(
            Claim, "process_is_gone", lambda claim: StoredClaims.world.owners[claim.id].ended
        )
        yield make


def test_no_two_processes_write_whatever_is_stopped_or_killed(
    worlds: Callable[[int], World],
) -> None:
    num_written = num_deposed = 0
    for seed in range(100):
        world = worlds(seed)
        world.run()
        num_written += world.num_written
        num_deposed += world.num_deposed
    assert num_written > 1000 and num_deposed > 100, "or the test shows nothing"


@pytest.mark.slow
def test_no_two_processes_write_in_many_more_schedules(worlds: Callable[[int], World]) -> None:
    for seed in range(100, 1500):
        worlds(seed).run()
