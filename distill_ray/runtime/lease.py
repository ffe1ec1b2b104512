"""A lease on a run's folder: one process at a time works there. `acquisition.py` says how.

A thread renews the lease. A process that was stopped for long, so that another one took over,
notices it at the next renewal or before it commits an artifact, and stops instead of writing.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.acquisition import Acquisition, Pace, now
from distill_ray.runtime.claims import HOLDING, Claim, Claims
from distill_ray.runtime.signals import interrupt_main_thread
from distill_ray.runtime.storage import Storage

PACE = Pace()
LOST = "run folder lost:"


class LeaseLostError(InputError):
    """Another process took the folder over, or this one never had it."""

    @classmethod
    def of(cls, place: str, what: str) -> LeaseLostError:
        """The error about a run's folder."""
        fix = "This run stops without writing. Rerun it to resume, once the folder is free."
        return cls(LOST, [Problem(place, what, fix)])


class NoLeaseError(InputError):
    """Something would have been written by a run that only reads."""


class Guard(Protocol):
    """What says whether a run may write in its folder."""

    def check(self) -> None:
        """Raise unless it may."""


class Lease:
    """The right to work in a run's folder. It ends with `release`, or with the last reference.

    In another process, as in Ray's workers, it is a `RemoteLease`.
    """

    def __init__(self, storage: Storage, keeper: _Keeper) -> None:
        self._storage, self._keeper = storage, keeper
        self._finalizer = weakref.finalize(self, keeper.release)

    def __reduce__(self) -> tuple[type[RemoteLease], tuple[Storage, str]]:
        return RemoteLease, (self._storage, self._keeper.claim.id)

    def check(self) -> None:
        """Make sure that the folder is still this process's.

        Raises:
            LeaseLostError: another process took it over.
            OSError: the storage is unreachable, and the last renewal is too old.
        """
        self._keeper.check()

    @property
    def is_lost(self) -> bool:
        """Whether this process knows that another one took it over."""
        return self._keeper.loss is not None

    @property
    def is_over(self) -> bool:
        """Whether it is released or lost."""
        return self.is_lost or not self._finalizer.alive

    def release(self) -> None:
        """Let others work in the folder."""
        self._finalizer()


@dataclass(frozen=True)
class RemoteLease:
    """The lease of another process, which this one works for."""

    storage: Storage
    """The run's folder."""
    id: str

    def check(self) -> None:
        """Make sure that the other process still has the folder.

        Raises:
            LeaseLostError: it hasn't.
        """
        if not Claims(self.storage).exists(self.id):
            what = "the run that this process works for has ended, or lost the folder to another."
            raise LeaseLostError.of(self.storage.uri, what)


@dataclass(frozen=True)
class ReadOnly:
    """In place of a lease: nothing may be written."""

    storage: Storage
    """The run's folder."""

    def check(self) -> None:
        """Refuse to write.

        Raises:
            NoLeaseError: always.
        """
        problem = Problem("name", f"{self.storage.uri} isn't complete, and this run only reads.")
        raise NoLeaseError("run incomplete:", [problem])


_leases: weakref.WeakValueDictionary[tuple[int, str], Lease] = weakref.WeakValueDictionary()
"""(Process, folder) → its lease."""
_acquiring = threading.Lock()


def acquire(storage: Storage, *, wait: bool, notify: Callable[[str], None]) -> Lease:
    """Take the lease on a run's folder, or share the one that this process has.

    Args:
        storage: the run's folder.
        wait: whether to wait while another process has it.
        notify: called with a line when it waits, or takes over from a dead process.

    Raises:
        LeaseHeldError: another process has it.
        OSError: the storage is unreachable.
    """
    with _acquiring:
        lease = _leases.get((os.getpid(), storage.uri))
        if lease is None or lease.is_over:
            quick = Storage(storage.uri, gives_up_quickly=True)
            acquisition = Acquisition(quick, PACE, wait=wait, notify=notify)
            acquisition.run()
            keeper = _Keeper(storage, acquisition, PACE.interval_s)
            lease = _leases[os.getpid(), storage.uri] = Lease(storage, keeper)
            keeper.start()
        return lease


def release_all() -> None:
    """Release every lease of this process: its command ends."""
    for (pid, _), lease in list(_leases.items()):
        if pid == os.getpid():
            lease.release()


def loss() -> LeaseLostError | None:
    """The first lease of this process that another one took over."""
    losses = (lease._keeper.loss for lease in list(_leases.values()))
    return next((error for error in losses if error is not None), None)


class _Keeper:
    """Renews a claim in a thread of its own, until it is released or lost."""

    def __init__(self, storage: Storage, acquisition: Acquisition, interval_s: float) -> None:
        self.claim = acquisition.claim
        self.loss: LeaseLostError | None = None
        self._storage, self._claims = storage, acquisition.claims
        self._interval_s = interval_s
        self._renewed_at = acquisition.renewed_at
        self._pid, self._lock, self._stopped = os.getpid(), threading.Lock(), threading.Event()

    def start(self) -> None:
        """Renew the claim from now on."""
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_s):
            with suppress(OSError):  # The next renewal may reach the storage.
                self._renew()
            if self.loss is not None:
                interrupt_main_thread()  # It may wait for workers for hours.
                return

    def check(self) -> None:
        """Raise the loss; renew a claim that may have been taken for dead first."""
        if os.getpid() != self._pid:  # A fork of the process that has the lease.
            RemoteLease(self._storage, self.claim.id).check()
        else:
            while self.loss is None and self._is_in_doubt() and not self._stopped.is_set():
                self._renew()  # Again if this process was stopped in the middle of it.
        if self.loss is not None:
            raise LeaseLostError(self.loss.title, self.loss.problems)

    def _is_in_doubt(self) -> bool:
        """Whether an observer might already take this claim for dead."""
        return now() - self._renewed_at > self.claim.dead_after_s * 2 / 3

    def _renew(self) -> None:
        """Write a heartbeat, then look whether another process took over.

        Raises:
            OSError: the storage is unreachable.
        """
        with self._lock:
            if self._stopped.is_set() or self.loss is not None:
                return
            started = now()
            if not self._claims.exists(self.claim.id):
                others = self._claims.others(self.claim.id).values()
                self._lose(next((o for o in others if o.state == HOLDING), None))
                return
            self.claim = self.claim.renewed()
            self._claims.put(self.claim)
            in_doubt = self._is_in_doubt()
            for other in self._claims.others(self.claim.id).values():
                is_rival = other.state == HOLDING and other.id not in self.claim.deposed
                if self.claim.id in other.deposed or (in_doubt and is_rival):
                    self._lose(other)
                    self._claims.delete(self.claim.id)  # The heartbeat may have brought it back.
                    return
            self._renewed_at = started

    def _lose(self, to: Claim | None) -> None:
        by = "another process, or by hand" if to is None else to.describe()
        silent = f"this one hadn't answered for {now() - self._renewed_at:.0f} s"
        self.loss = LeaseLostError.of(self._storage.uri, f"it was taken over by {by}; {silent}.")

    def release(self) -> None:
        """Delete the claim."""
        if os.getpid() != self._pid:
            return  # A fork of the process that has the lease.
        self._stopped.set()
        # With the lock: a renewal that came later would bring the claim back.
        with self._lock, suppress(OSError, ValueError):
            self._claims.delete(self.claim.id)
