"""Shard files in a process of its own, once a turn, and watch the memory of all that it starts.

A program (`python -m PROGRAM`) gets its work as JSON on standard input and writes its `Outcome` to
a file. It starts anew in each turn, because a process that has worked keeps memory and imports.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.harness.descendants import Process, end_with_parent
from distill_ray.bench.harness.tree_memory import SYSTEM, WORKER, TreePeaks, TreeSampler
from distill_ray.bench.suites.work import ShardWork
from distill_ray.data.rows import SPLITS

TAIL = 2000
"""Characters of a failed program's output that are reported."""
RAY_PROCESSES = ("raylet", "gcs_server", "dashboard", "log_monitor", "Agent", "monitor.py")
"""Words in the commands of Ray's own processes."""


@dataclass(frozen=True)
class Outcome:
    """What a program made, and when; times are of the system's monotonic clock."""

    rows: Mapping[str, int]
    """Split → rows that stayed."""
    tokens: Mapping[str, int]
    """Split → tokens in them, each sample's end included."""
    packed: Mapping[str, int]
    """Split → packed rows."""
    duplicates: int
    ready_at: float
    """When everything was imported and started, and work began."""
    done_at: float
    phases: Mapping[str, float]
    """Phase → seconds."""

    @property
    def counts(self) -> tuple[float, ...]:
        """The numbers that must be equal in all arms; packing may differ."""
        splits = [table.get(split, 0) for table in (self.tokens, self.rows) for split in SPLITS]
        return (*map(float, splits), float(self.duplicates))


def run(turns: ArmClient, *, work: ShardWork, program: str) -> None:
    """Let a program shard the files once a turn."""
    for _ in turns:
        with tempfile.TemporaryDirectory(prefix="distill-ray-bench-shard-") as folder:
            began = time.monotonic()
            outcome, peaks = measure(program, work, Path(folder))
            total_s = time.monotonic() - began
        seconds = outcome.done_at - outcome.ready_at
        turns.done(
            outcome.counts,
            seconds=seconds,
            cpu_seconds=peaks.cpu_seconds,
            peak_bytes=peaks.total,
            figures={
                "tokens_per_s": sum(outcome.tokens.values()) / seconds,
                "start_s": outcome.ready_at - began,
                "total_s": total_s,
                "packed": sum(outcome.packed.values()),
                "sampling_cpu_s": peaks.sampling_cpu_seconds,
                "rows_read": sum(outcome.rows.values()) + outcome.duplicates,
                **{f"{name}_bytes": getattr(peaks, name) for name in HELD},
                **{f"phase: {name}": s for name, s in outcome.phases.items()},
            },
        )


HELD = ("driver", "worker", "system", "total", "total_with_files")
"""Peaks that are reported."""


def measure(
    program: str, work: ShardWork, folder: Path, interval_s: float = 1.0
) -> tuple[Outcome, TreePeaks]:
    """Run a program to its end.

    Args:
        program: module with a `main` that calls `serve`.
        work: what it does.
        folder: where it may write.
        interval_s: between two looks at its memory; a process that lives shorter may go unseen.

    Raises:
        RuntimeError: it failed; the end of its output is in the message.
    """
    log = folder / "log"
    # What the harness sets isn't what users have: `datasets` and we set it ourselves.
    env = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
    env |= {"RAY_OVERRIDE_RESOURCES": json.dumps({"CPU": work.processes})}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", program, str(folder)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=env,
        )
        sampler = TreeSampler(process.pid, role, interval_s)
        sampler.start()
        try:
            process.communicate(json.dumps(asdict(work)).encode())
        finally:
            process.kill()  # Only where the wait was interrupted.
            peaks = sampler.stop()
    if process.returncode:
        tail = log.read_bytes().decode(errors="replace").strip()[-TAIL:]
        raise RuntimeError(f"{program} ended with exit code {process.returncode}:\n{tail}")
    return Outcome(**json.loads((folder / "outcome.json").read_bytes())), peaks


def role(process: Process) -> str:
    """Tell Ray's own processes from those that do the work."""
    return SYSTEM if any(word in process.command for word in RAY_PROCESSES) else WORKER


def serve(program: Callable[[ShardWork, Path], Outcome]) -> None:
    """Be the program that `measure` starts: read the work, do it, write the outcome."""
    end_with_parent()
    folder = Path(sys.argv[1])
    fields: dict[str, Any] = json.load(sys.stdin)
    work = ShardWork(**fields | {"files": tuple(fields["files"])})
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: work.processes])
    output = folder / "output"
    output.mkdir()
    outcome = program(work, output)
    (folder / "outcome.json").write_text(json.dumps(asdict(outcome)))
    shutil.rmtree(output, ignore_errors=True)
