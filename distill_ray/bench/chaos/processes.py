"""Processes below one that we started, as Linux tells of them; nothing else is ever signalled."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process; its number may be given again, the time of its start tells it apart."""

    pid: int
    parent: int
    started: int
    """Ticks since the machine started."""
    command: str

    def alive(self) -> bool:
        """Whether it is still there, and not a zombie."""
        now = _read(self.pid)
        return now is not None and now.started == self.started

    def kill(self) -> None:
        """End it at once, if it is there."""
        if self.alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def below(pid: int) -> list[Process]:
    """All children of a process, their children and so on."""
    numbers = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    every = [process for number in numbers if (process := _read(number)) is not None]
    children: dict[int, list[Process]] = {}
    for process in every:
        children.setdefault(process.parent, []).append(process)
    family: list[Process] = []
    pending = [pid]
    while pending:
        new = children.get(pending.pop(), [])
        family += new
        pending += [process.pid for process in new]
    return family


def _read(pid: int) -> Process | None:
    """None for one that is gone, or dead and not yet taken note of."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return None
    state, parent, *fields = stat.rpartition(")")[2].split()  # Its name may hold anything.
    if state == "Z":
        return None
    return Process(pid, int(parent), int(fields[17]), command.decode(errors="replace").strip())


def end(processes: Iterable[Process], patience_s: float) -> None:
    """Wait until all are gone; what is left then is killed."""
    survivors, until = list(processes), time.monotonic() + patience_s
    while survivors and time.monotonic() < until:
        time.sleep(0.1)
        survivors = [process for process in survivors if process.alive()]
    for process in survivors:
        process.kill()
