"""The command line in a process of its own, whose events are read as they come."""

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
from distill_ray.bench.harness.descendants import below, end

END_S = 60.0
"""Seconds that Ray has to end by itself once its driver is gone."""
TAIL = 2000
"""Characters of a failed run's standard error that are reported."""


class Driver:
    """A `distill-ray` command that can be killed and started again; its events add up."""

    def __init__(self, arguments: Sequence[str], env: dict[str, str], log: Path) -> None:
        """Start the command.

        Args:
            arguments: those after the program's name, without `--json`.
            env: its whole environment.
            log: gets its standard error.
        """
        self._command = [sys.executable, "-m", "distill_ray", *arguments, "--json"]
        self._env, self._log = env, log
        self.events: list[TimedEvent] = []
        self._changed = threading.Condition()
        self.start()

    def start(self) -> None:
        """Start the command, or start it again after it was killed."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C reaches the bench alone, which then ends this.
            )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._read, args=[self._process.stdout], daemon=True)
        self._reader.start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                event = json.loads(line)["event"]
                timed_event = TimedEvent(
                    time.monotonic(), event["stage"], event.get("text", ""), event.get("completed")
                )
            except (ValueError, KeyError, TypeError):
                continue  # A result, or a line that a kill has cut off.
            with self._changed:
                self.events.append(timed_event)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, holds: Callable[[Sequence[TimedEvent]], bool], patience_s: float) -> bool:
        """Wait until a condition holds of the events; False if the process ends or time is up."""
        deadline = time.monotonic() + patience_s
        with self._changed:
            while not holds(self.events):
                if self.over() or time.monotonic() > deadline:
                    return False
                self._changed.wait(1.0)
        return True

    def over(self) -> bool:
        """Whether the process has ended and all its output has been read."""
        return self._process.poll() is not None and not self._reader.is_alive()

    def kill(self) -> None:
        """Send SIGKILL, and wait until the processes that it started are gone too."""
        survivors = below(self._process.pid)
        self._process.kill()
        self._process.wait()
        end(survivors, END_S)
        self._reader.join(END_S)

    def wait(self, patience_s: float) -> int | None:
        """Wait for the exit code; None if the process is still running after that time."""
        try:
            code = self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            return None
        self._reader.join(END_S)
        return code

    def close(self) -> None:
        """End the process and all that it started."""
        if self._process.poll() is None:
            survivors = below(self._process.pid)
            os.kill(self._process.pid, signal.SIGINT)
            if self.wait(END_S) is None:
                self._process.kill()
            end(survivors, END_S)

    def last_words(self) -> str:
        """The end of its standard error."""
        return self._log.read_text(errors="replace").strip()[-TAIL:]
