"""Descendants of a process that we started, from Linux's /proc; nothing else is ever signalled."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Process:
    """A process; its start time tells it apart from a later one with the same id."""

    pid: int
    parent: int
    started: int
    """Ticks since the machine started."""
    command: str
    cpu_seconds: float = field(default=0.0, compare=False)
    """CPU time of all its threads so far."""

    def alive(self) -> bool:
        """Whether the process still exists and is no zombie."""
        current = read_process(self.pid)
        return current is not None and current.started == self.started

    def kill(self) -> None:
        """Send SIGKILL, if the process is alive."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def below(pid: int) -> list[Process]:
    """List all children of a process, their children and so on."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    running = [process for number in numbers if (process := read_process(number)) is not None]
    children: dict[int, list[Process]] = {}
    for process in running:
        children.setdefault(process.parent, []).append(process)
    descendants: list[Process] = []
    pending = [pid]
    while pending:
        new = children.get(pending.pop(), [])
        descendants += new
        pending += [process.pid for process in new]
    return descendants


def end_with_parent() -> None:
    """Have Linux end this process, whatever it does, when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_process(pid: int) -> Process | None:
    """Read a process from /proc; None for one that is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return None
    state, parent, *fields = stat.rpartition(")")[2].split()  # The name may hold anything.
    if state == "Z":
        return None
    return Process(
        pid,
        int(parent),
        int(fields[17]),
        command.decode(errors="replace").strip(),
        cpu_seconds=(int(fields[9]) + int(fields[10])) / os.sysconf("SC_CLK_TCK"),
    )


def end(processes: Iterable[Process], patience_s: float) -> None:
    """Wait until all processes are gone; kill those that are left after that time."""
    survivors, deadline = list(processes), time.monotonic() + patience_s
    while survivors and time.monotonic() < deadline:
        time.sleep(0.1)
        survivors = [process for process in survivors if process.alive()]
    for process in survivors:
        process.kill()
