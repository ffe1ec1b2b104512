"""The command line at work in a process of its own: its events as they come, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from distill_ray.bench.chaos.outcomes import TimedEvent
from distill_ray.bench.chaos.processes import below, end

END_S = 60.0
"""What Ray gets to end by itself once its driver is gone."""
TAIL = 2000
"""Characters that are kept of what a run said that didn't survive."""


class Driver:
    """A command of `distill-ray`; started again after it was killed, its events go on."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        """Start it.

        Args:
            arguments: without the program and `--json`.
            env: all of its environment.
            log: what it says on standard error goes there.
        """
        self._command = [sys.executable, "-m", "distill_ray", *arguments, "--json"]
        self._env, self._log = env, log
        self.events: list[TimedEvent] = []
        self._told = threading.Condition()
        self.start()

    def start(self) -> None:
        """Start it, once more if it was killed."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is the bench's, which then ends it.
            )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            event = _event(line)
            if event is not None:
                with self._told:
                    self.events.append(event)
                    self._told.notify_all()
        with self._told:
            self._told.notify_all()

    def wait_for(self, holds: Callable[[Sequence[TimedEvent]], bool], patience_s: float) -> bool:
        """Wait until something holds of the events; False if the process ends, or time is over."""
        until = time.monotonic() + patience_s
        with self._told:
            while not holds(self.events):
                if self.over() or time.monotonic() > until:
                    return False
                self._told.wait(1.0)
        return True

    def over(self) -> bool:
        """Whether it has ended and everything that it said is there."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def kill(self) -> None:
        """End it at once, as the system does, and wait until what it has started is gone too."""
        survivors = below(self._process.pid)
        self._process.kill()
        self._process.wait()
        end(survivors, END_S)
        self._reader.join(END_S)

    def wait(self, patience_s: float) -> int | None:
        """Its exit code; None if it is still at work after that time."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(END_S)
        return code

    def close(self) -> None:
        """Leave nothing of it behind."""
        if self._process.poll() is None:
            survivors = below(self._process.pid)
            os.kill(self._process.pid, signal.SIGINT)
            if self.wait(END_S) is None:
                self._process.kill()
            end(survivors, END_S)

    def last_words(self) -> str:
        """The end of what it said on standard error."""
        return self._log.read_text(errors="replace").strip()[-TAIL:]


def _event(line: str) -> TimedEvent | None:
    """The event of a line; None for a result, or what a kill has left of a line."""
    try:
        event = json.loads(line)["event"]
        return TimedEvent(
            time.monotonic(), event["stage"], event.get("text", ""), event.get("completed")
        )
    except (ValueError, KeyError, TypeError):
        return None
