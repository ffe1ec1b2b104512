"""The processes of one arm, started and driven by the command. Imports no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import IO, Any

from distill_ray.bench.harness.machine import busy_s, cores, wait_for_quiet
from distill_ray.bench.harness.plan import Arm, Plan
from distill_ray.bench.harness.protocol import Failed, Start
from distill_ray.bench.harness.result import ArmResult, Unit

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "PYTHONWARNINGS": "ignore",
}
TAIL = 2000
"""Characters of a dead process's output that are reported."""
END_S = 20.0
"""Seconds that an arm has to end by itself."""


class ArmProcesses:
    """The processes of one arm."""

    def __init__(self, arm: Arm, plan: Plan, folder: Path) -> None:
        folder.mkdir()
        self._arm, self._plan = arm, plan
        self._error: str | None = None
        self._units: list[Unit] = []
        self._device = ""
        self._facts: dict[str, Any] = {}
        self._members = [_Process(arm, plan, folder, rank) for rank in range(arm.ranks)]

    def build(self) -> None:
        """Wait until every process has built its state."""
        ready = self._replies()
        if ready is not None:
            self._device, self._facts = ready[0].device, dict(ready[0].facts)

    def take_turn(self) -> None:
        """Let the processes do one unit, unless the arm has failed."""
        if self._error is not None:
            return
        wait_for_quiet(self._plan.patience_s)
        began, busy = time.monotonic(), busy_s()
        for member in self._members:
            member.send(True)
        units = self._replies()
        if units is not None:
            # The slowest rank's time, the hungriest's memory, rank 0's losses.
            peaks = [unit.peak_bytes for unit in units if unit.peak_bytes is not None]
            cpu_seconds = sum(unit.cpu_seconds for unit in units)
            others_busy_s = busy_s() - busy - cpu_seconds
            share = others_busy_s / (cores() * max(time.monotonic() - began, 1e-9))
            unit = replace(
                units[0],
                seconds=max(unit.seconds for unit in units),
                cpu_seconds=cpu_seconds,
                peak_bytes=max(peaks) if peaks else None,
                other_load=min(1.0, max(0.0, share)),
            )
            self._units.append(unit)

    def _replies(self) -> list[Any] | None:
        """Receive a message from every process; None, and all are killed, if one has failed."""
        try:
            return [member.reply(self._plan.timeout_s) for member in self._members]
        except _ArmError as error:
            self._error = str(error)
            self._kill()
            return None

    def _kill(self) -> None:
        for member in self._members:
            member.kill()

    def end(self) -> None:
        """Let the processes end; kill those that don't."""
        for member in self._members:
            member.end()

    def last(self) -> str:
        """Describe the last turn, for people."""
        if self._error is not None:
            return f"{self._arm.name} failed: {self._error.splitlines()[0]}"
        unit = self._units[-1]
        return f"{self._arm.name} {unit.seconds:.3g} s ({unit.other_load:.0%} others)"

    def result(self) -> ArmResult:
        """Collect all units of the arm."""
        return ArmResult(
            self._arm.name,
            tuple(self._units),
            self._plan.warmup,
            note=self._arm.note,
            error=self._error,
            threads=self._arm.threads,
            ranks=self._arm.ranks,
            device=self._device,
            facts=self._facts,
        )


class _ArmError(Exception):
    """A process of an arm failed, died or is stuck."""


class _Process:
    """One process of an arm, and the pipe to it."""

    def __init__(self, arm: Arm, plan: Plan, folder: Path, rank: int) -> None:
        self._connection, child_end = Pipe()
        self._log: IO[bytes] = (folder / f"{rank}.log").open("w+b")
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "distill_ray.bench.harness.main", str(child_end.fileno())],
                pass_fds=[child_end.fileno()],
                env=environment(arm.threads),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
            )
        self.send(
            Start(
                run=arm.run,
                options=dict(arm.options),
                threads=arm.threads,
                total=plan.rounds,
                rank=rank,
                ranks=arm.ranks,
                rendezvous=str(folder / "rendezvous"),
            )
        )

    def send(self, message: Any) -> None:
        """Send a message; if the process is gone, `reply` raises."""
        try:
            self._connection.send(message)
        except (BrokenPipeError, OSError):
            return

    def reply(self, timeout_s: float) -> Any:
        """Receive the next message.

        Raises:
            _ArmError: the process failed, died or is stuck.
        """
        try:
            if not self._connection.poll(timeout_s):
                raise _ArmError(f"no answer for {timeout_s:.0f} s")
            message = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise _ArmError(self._last_words()) from error
        if isinstance(message, Failed):
            raise _ArmError(message.error)
        return message

    def _last_words(self) -> str:
        """Why the process died, as far as is known."""
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "killed by the system, most likely out of memory"
        self._log.seek(0)
        log_tail = self._log.read().decode(errors="replace").strip()[-TAIL:]
        return f"ended with exit code {code}" + (f":\n{log_tail}" if log_tail else "")

    def end(self) -> None:
        """Let the process end, or kill it; may be called again."""
        self.send(False)
        self._connection.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._log.close()

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()


def environment(threads: int) -> dict[str, str]:
    """Make the environment of an arm's process: equal for all arms, but for torch's threads."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    count = str(threads)
    return {
        **os.environ,
        **QUIET,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
    }
