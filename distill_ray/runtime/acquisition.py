"""How one process at a time comes to hold a run's folder, without locks and common clocks.

Each process that wants a folder writes a claim of its own (`claims.py`). No storage operation
beyond write, read, list and delete is needed, so it is the same on a disk and in an object store,
where pyarrow offers no conditional write.

A claim is `waiting`, then `entering`, then `holding`. **Two can't both hold**: a process enters by
writing `entering`, and holds only if it *then* reads all other claims and none is entering or
holding. Of two processes, one has written its claim first; the other reads after its own write, so
it sees that claim. Of two that enter at once, the one with the smaller id stays and the other goes
back to waiting. Clocks decide nothing; ids only decide who goes first.

**A dead claim is taken over.** Dead is a claim whose heartbeat an observer hasn't seen change for
`dead_after_s` on the observer's clock, or whose process has ended on this very machine. The
observer writes the dead id into its own claim (`deposed`), *then* reads the dead claim again, and
deletes it if it is unchanged. The holder, after each heartbeat that it writes, *then* reads all
claims, and has lost its lease if one names it as deposed, or if its own claim is gone. So at least
one of the two sees the other: the observer gives up, or the holder stops.

**A holder that was stopped notices**: before it commits an artifact, a lease whose last renewal is
older than two thirds of `dead_after_s` is renewed first. Processes of the same run elsewhere, as
Ray's workers, look whether the claim is still there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.claims import ENTERING, HOLDING, WAITING, Claim, Claims
from distill_ray.runtime.storage import Storage

if TYPE_CHECKING:
    from typing_extensions import Never

HELD = "run folder in use:"


@dataclass(frozen=True)
class Pace:
    """How often claims are renewed and looked at."""

    interval_s: float = 3.0
    """Between two heartbeats."""
    dead_after_s: float = 30.0
    """Ten heartbeats: a machine that swaps, or a storage that is slow, isn't dead."""
    poll_s: float = 0.5
    """Between two looks at other claims, while it isn't known whether they live."""


class LeaseHeldError(InputError):
    """Another process works in the folder."""


@dataclass
class Observer:
    """How long claims have been silent, as seen by this process and on its own clock.

    Clocks of other machines don't count. Neither does time in which this process was stopped or
    its machine slept, since the others may have been too.
    """

    poll_s: float
    """Between two looks; of a longer time, only twice this counts."""
    _seen: dict[str, tuple[Claim, float, float, bool]] = field(default_factory=dict)
    """Id → its claim, time of the last look, seconds of silence, whether it ever moved."""

    def look(self, claims: Mapping[str, Claim]) -> None:
        """Compare claims with those of the last look."""
        now, before = time.monotonic(), self._seen
        self._seen = {}
        for claim_id, claim in claims.items():
            last, looked, silent_s, moved = before.get(claim_id, (claim, now, 0.0, False))
            if last == claim:
                silent_s += min(now - looked, 2 * self.poll_s)
            else:
                silent_s, moved = 0.0, True
            self._seen[claim_id] = (claim, now, silent_s, moved)

    def is_dead(self, claim: Claim) -> bool:
        """Whether a claim's process has ended, or was silent for too long."""
        return self.silent_s(claim) >= claim.dead_after_s or claim.process_is_gone()

    def is_alive(self, claim: Claim) -> bool:
        """Whether a heartbeat was seen. A claim may be neither dead nor alive yet."""
        return self._seen[claim.id][3] and not self.is_dead(claim)

    def silent_s(self, claim: Claim) -> float:
        """Seconds without a heartbeat."""
        return self._seen[claim.id][2]


class Acquisition:
    """One attempt to hold a folder."""

    def __init__(
        self, storage: Storage, pace: Pace, *, wait: bool, notify: Callable[[str], None]
    ) -> None:
        self.claims = Claims(storage)
        self.claim = Claim.of_this_process(pace.dead_after_s)
        self.renewed_at = 0.0
        """When the claim was written last."""
        self._storage, self._pace, self._wait, self._notify = storage, pace, wait, notify
        self._observer, self._waits_for = Observer(pace.poll_s), ""

    def run(self) -> None:
        """Return once the claim holds.

        Raises:
            LeaseHeldError: another process holds, and this one doesn't wait.
        """
        try:
            self._put()
            while not self._step():
                pass
        except BaseException:
            with suppress(OSError):
                self.claims.delete(self.claim.id)
            raise

    def _step(self) -> bool:
        """Look at the other claims and act; True once this one holds."""
        if now() - self.renewed_at > self._pace.interval_s:
            self._put()
        others = self.claims.others(self.claim.id)
        self._observer.look(others)
        for other in self._in_the_way(others.values()):
            if self._observer.is_dead(other) and self._depose(other):
                del others[other.id]
        before_me = self._in_the_way(others.values())
        if not before_me:
            return self._advance()
        if self.claim.state == ENTERING and any(
            other.state == HOLDING or other.id < self.claim.id for other in before_me
        ):
            self._put(state=WAITING)
        holder = next((o for o in before_me if o.state == HOLDING), None)
        is_alive = holder is not None and self._observer.is_alive(holder)
        if holder is not None and is_alive and not self._wait:
            self._refuse(holder)
        if holder is not None and is_alive and self._waits_for != holder.id:
            self._waits_for = holder.id
            self._notify(f"waiting for {holder.describe()}, which works in {self._storage.uri}")
        self._observer.poll_s = self._pace.interval_s if is_alive else self._pace.poll_s
        time.sleep(self._observer.poll_s)
        return False

    def _in_the_way(self, others: Iterable[Claim]) -> list[Claim]:
        """Claims that must go first. One that was deposed and comes back doesn't count."""
        waits = self.claim.state == WAITING
        return [
            other
            for other in others
            if other.id not in self.claim.deposed
            and (other.state != WAITING or (waits and other.id < self.claim.id))
        ]

    def _advance(self) -> bool:
        """From waiting to entering, or from entering to holding."""
        if self.claim.state == WAITING:
            self._put(state=ENTERING)
            return False
        self._put(state=HOLDING)
        # Once more: this process may have been stopped since it read the claims, and deposed.
        others = self.claims.others(self.claim.id).values()
        holds = not any(
            self.claim.id in other.deposed
            or (other.state == HOLDING and other.id not in self.claim.deposed)
            for other in others
        )
        if not holds:
            self._put(state=WAITING)
        return holds

    def _depose(self, other: Claim) -> bool:
        """Take over from a dead claim; False if it lives after all."""
        self._put(deposed=(*self.claim.deposed, other.id))
        if self.claims.get(other.id) not in (other, None):
            self._put(deposed=tuple(i for i in self.claim.deposed if i != other.id))
            return False
        self.claims.delete(other.id)
        if other.state == HOLDING:
            why = "its process is gone" if other.process_is_gone() else "it no longer answers"
            self._notify(f"{self._storage.uri} is taken over from {other.describe()}: {why}")
        return True

    def _put(self, **changes: object) -> None:
        self.renewed_at = now()
        self.claim = self.claim.renewed(**changes)
        self.claims.put(self.claim)

    def _refuse(self, holder: Claim) -> Never:
        seen = f"its last heartbeat came {self._observer.silent_s(holder):.0f} s ago"
        what = f"{holder.describe()} works in {self._storage.uri}; {seen}."
        fix = (
            "Wait until it has ended (--wait does), or choose another name (--set name=...) or "
            "another --storage."
        )
        raise LeaseHeldError(HELD, [Problem("name", what, fix)])


def now() -> float:
    """Seconds, counted also while the machine sleeps, where the system tells that."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock)
