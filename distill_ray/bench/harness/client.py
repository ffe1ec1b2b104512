"""An arm's side of the connection: wait for turns, report measurements."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from distill_ray.bench.harness.memory import meter
from distill_ray.bench.harness.protocol import Ready, Start
from distill_ray.bench.harness.result import Unit


class ArmClient:
    """The turns of an arm, which sleeps between them while another arm works.

    An arm builds its state, then either iterates (`for number in turns: ...; turns.done([loss])`)
    or, where a library owns the loop, calls `wait` and `done` from its callbacks. Memory is
    measured from the first wait on, time from a turn's beginning to `stop_clock` or `done`.
    """

    def __init__(self, connection: Connection, start: Start) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.total, self.rank, self.ranks = start.total, start.rank, start.ranks
        self.rendezvous = start.rendezvous
        self._connection = connection
        self._meter = meter(self.device)
        self._facts: dict[str, Any] = {}
        self._ready = False
        self._next = 0
        self._began: tuple[float, float] | None = None
        self._took = (0.0, 0.0)

    def __iter__(self) -> Iterator[int]:
        while self.wait():
            yield self._next

    def tell(self, **facts: Any) -> None:
        """Add facts to the report: plain values, before the first wait."""
        self._facts |= facts

    def wait(self) -> bool:
        """Sleep until it is this arm's turn, then start the clock; False when all is done."""
        if not self._ready:
            self._meter.start()
            on_gpu = self.device.type == "cuda"
            device_name = torch.cuda.get_device_name() if on_gpu else self.device.type
            self._connection.send(Ready(device_name, self._facts))
            self._ready = True
        if not self._connection.recv():
            return False
        self._synchronize()
        self._began = (time.perf_counter(), time.process_time())
        return True

    def stop_clock(self) -> None:
        """Stop measuring time: the remaining part of this turn is not part of the work."""
        if self._began is not None:
            self._synchronize()
            wall, cpu = self._began
            self._took = (time.perf_counter() - wall, time.process_time() - cpu)
            self._began = None

    def done(
        self,
        losses: Sequence[float],
        amount: float = 1.0,
        *,
        seconds: float | None = None,
        cpu_seconds: float | None = None,
        peak_bytes: int | None = None,
        figures: Mapping[str, float] | None = None,
    ) -> None:
        """End the turn.

        Args:
            losses: numbers that must be equal in all arms; the loss comes first.
            amount: how much work was done, such as useful tokens, where arms differ in it.
            seconds: the time that counts, where it isn't the whole turn's.
            cpu_seconds: CPU time of the process that did the work, where it isn't this one.
            peak_bytes: peak memory of that process.
            figures: other measurements.
        """
        self.stop_clock()
        own_seconds, own_cpu_seconds = self._took
        seconds = own_seconds if seconds is None else seconds
        cpu_seconds = own_cpu_seconds if cpu_seconds is None else cpu_seconds
        peak = self._meter.peak() if peak_bytes is None else peak_bytes
        unit = Unit(
            self._next,
            seconds,
            cpu_seconds,
            tuple(losses),
            float(amount),
            peak,
            figures=dict(figures or {}),
        )
        self._next += 1
        self._connection.send(unit)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
