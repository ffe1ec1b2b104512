"""How much memory a piece of work takes above what was held before it. Sizes in bytes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Protocol

import torch

from distill_ray.engine.backends.allocator import release_freed_memory

PROC = Path("/proc/self")


class Meter(Protocol):
    """Peak memory since `start`, above the level at `start`."""

    def start(self) -> None:
        """Give back what is free, and count from here."""

    def peak(self) -> int | None:
        """The most that was held since, above that level; None where it can't be known."""


class ResidentMeter:
    """Resident memory of this process, as Linux counts it."""

    def __init__(self) -> None:
        self._base = 0

    def start(self) -> None:
        """Give back what is free, and count from here."""
        gc.collect()
        release_freed_memory()
        (PROC / "clear_refs").write_text("5")  # Sets VmHWM to what is resident now.
        self._base = _status("VmRSS")

    def peak(self) -> int:
        """The most that was resident since, above that level."""
        return max(0, _status("VmHWM") - self._base)


class CudaMeter:
    """What torch's allocator handed out on the current device."""

    def __init__(self) -> None:
        self._base = 0

    def start(self) -> None:
        """Give back what is free, and count from here."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._base = torch.cuda.memory_allocated()

    def peak(self) -> int:
        """The most that was allocated since, above that level."""
        return torch.cuda.max_memory_allocated() - self._base


class NoMeter:
    """For systems that don't tell."""

    def start(self) -> None:
        """Nothing to do."""

    def peak(self) -> None:
        """Not known."""


def meter(device: torch.device) -> Meter:
    """The meter of the memory that work on this device takes."""
    if device.type == "cuda":
        return CudaMeter()
    return ResidentMeter() if sys.platform == "linux" else NoMeter()


def _status(key: str) -> int:
    """A size of `/proc/self/status`."""
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
