"""Memory of a process and of all that it starts, sampled from Linux's /proc. Sizes in bytes.

A page that n processes share counts 1/n for each (the kernel's proportional set size), so that sums
count it once. Memory that is held is anonymous or shared; pages of mapped files are apart, because
the system can drop them.

A look at one process walks its page tables and takes some milliseconds of a core: 60 for a Ray with
two workers. So `bench shard` looks once a second, and what the looks take is reported.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from distill_ray.bench.harness.descendants import Process, below, read_process

DRIVER, WORKER, SYSTEM = "driver", "worker", "system"
Role = Callable[[Process], str]
"""Descendant → `WORKER`, or `SYSTEM` for a framework's own."""


@dataclass
class TreePeaks:
    """The most that was held at any sample."""

    driver: int = 0
    worker: int = 0
    """Of one worker, the largest."""
    system: int = 0
    """Of all of the framework's own processes together."""
    total: int = 0
    """Of all processes together."""
    total_with_files: int = 0
    """The same with pages of mapped files."""
    samples: int = 0
    cpu_seconds: float = 0.0
    """CPU time of all processes, up to the last sample of each."""
    sampling_cpu_seconds: float = 0.0
    """CPU time of the samples themselves."""


@dataclass
class TreeSampler:
    """Samples a process tree in a thread, from `start` to `stop`."""

    pid: int
    role: Role
    interval_s: float
    peaks: TreePeaks = field(default_factory=TreePeaks)
    _cpu_seconds: dict[tuple[int, int], float] = field(default_factory=dict)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Begin to sample."""
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> TreePeaks:
        """End, and return what was seen."""
        self._stopped.set()
        self._thread.join()
        self.peaks.cpu_seconds = sum(self._cpu_seconds.values())
        return self.peaks

    def sample(self) -> None:
        """Look at all processes once."""
        root = read_process(self.pid)
        held = {DRIVER: 0, WORKER: 0, SYSTEM: 0}
        largest = files = 0
        for process in [*([root] if root else []), *below(self.pid)]:
            memory = _read_memory(process.pid)
            if memory is None:
                continue  # It ended meanwhile.
            role = DRIVER if process.pid == self.pid else self.role(process)
            held[role] += memory[0]
            files += memory[1]
            if role == WORKER:
                largest = max(largest, memory[0])
            self._cpu_seconds[process.pid, process.started] = process.cpu_seconds
        peaks, total = self.peaks, sum(held.values())
        peaks.driver = max(peaks.driver, held[DRIVER])
        peaks.worker = max(peaks.worker, largest)
        peaks.system = max(peaks.system, held[SYSTEM])
        peaks.total = max(peaks.total, total)
        peaks.total_with_files = max(peaks.total_with_files, total + files)
        peaks.samples += 1

    def _watch(self) -> None:
        while not self._stopped.wait(self.interval_s):
            self.sample()
        self.peaks.sampling_cpu_seconds = time.thread_time()


def _read_memory(pid: int) -> tuple[int, int] | None:
    """Read what a process holds, and its pages of mapped files; None for one that is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return None
    sizes = {key: int(rest.split()[0]) * 1024 for key, _, rest in (x.partition(":") for x in lines)}
    held = sizes.get("Pss_Anon", 0) + sizes.get("Pss_Shmem", 0)
    return held, sizes.get("Pss", 0) - held
