"""Processes that open a run's folder and build artifacts in it, one command at a time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from s3_server import CREDENTIALS

from distill_ray.config.errors import InputError
from distill_ray.runtime import claims, lease
from distill_ray.runtime.acquisition import Pace
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage

PACE = Pace(interval_s=0.1, dead_after_s=10.0, poll_s=0.03)
"""A busy machine may stop a process for seconds, which must not look like its death."""
SHORT = replace(PACE, dead_after_s=1.2)
"""Where nobody contends with those that live."""
ANSWER_S = 20.0


class LeaseProcess:
    """A process and what it is told to do."""

    def __init__(self, uri: str, pace: Pace = PACE, *, elsewhere: bool = False) -> None:
        """Start it.

        Args:
            uri: the run's folder.
            pace: of its lease.
            elsewhere: whether it says that it runs on another machine.
        """
        context = multiprocessing.get_context("forkserver")  # Imports once; has no threads yet.
        context.set_forkserver_preload([__name__])
        self._connection, end = context.Pipe()
        arguments = (end, uri, pace, elsewhere)
        self._process: Any = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()

    def tell(self, command: str, *arguments: object) -> None:
        """Give a command."""
        self._connection.send((command, *arguments))

    def answer(self) -> Any:
        """Wait for the answer to a command."""
        assert self._connection.poll(ANSWER_S), "no answer"
        return self._connection.recv()

    def ask(self, command: str, *arguments: object) -> Any:
        """Give a command, and wait for its answer."""
        self.tell(command, *arguments)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self._process.pid, number)
        if number == signal.SIGKILL:
            self._process.join()

    def end(self) -> None:
        """Kill it if it lives."""
        self._process.kill()
        self._process.join()


@contextmanager
def processes(
    uri: str, number: int, pace: Pace = PACE, *, elsewhere: bool = False
) -> Iterator[list[LeaseProcess]]:
    """Some processes on one folder."""
    started = [LeaseProcess(uri, pace, elsewhere=elsewhere) for _ in range(number)]
    try:
        yield started
    finally:
        for process in started:
            process.end()


def artifact_at(uri: str, name: str, held: lease.Guard | None = None) -> Artifact:
    """An artifact of the run."""
    return Artifact(Storage(uri), "kind", name, {}, lease=held)


def _serve(connection: Connection, uri: str, pace: Pace, elsewhere: bool) -> None:
    os.environ.update(CREDENTIALS)  # The server that forks may have been started before.
    lease.PACE = pace
    if elsewhere:
        claims._machine = lambda: ""  # type: ignore[assignment]
    process = _Process(uri)
    while True:
        command, *arguments = connection.recv()
        try:
            connection.send(getattr(process, command)(*arguments))
        except InputError as error:
            connection.send(f"{type(error).__name__}: {error}")


class _Process:
    """The commands, as the process itself runs them."""

    def __init__(self, uri: str) -> None:
        self._storage, self._uri = Storage(uri), uri
        self._lease: lease.Lease | None = None

    def acquire(self, wait: bool = False) -> list[str]:
        """Returns what was told."""
        notes: list[str] = []
        self._lease = lease.acquire(self._storage, wait=wait, notify=notes.append)
        return notes

    def release(self) -> str:
        assert self._lease is not None
        self._lease.release()
        self._lease = None
        return "released"

    def lease(self) -> lease.Lease:
        """In another process, that of a worker of this one."""
        assert self._lease is not None
        return self._lease

    def build(self, name: str, seconds: float = 0.0) -> str:
        """Write a file, and after some time another one."""
        with artifact_at(self._uri, name, self._lease).building() as building:
            building.write_json("first.json", os.getpid())
            time.sleep(seconds)
            building.write_json("second.json", os.getpid())
        return "built"
