"""Measure the memory that work takes above the level before it. Sizes in bytes."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Protocol

import torch

from distill_ray.engine.backends.allocator import release_freed_memory

PROC = Path("/proc/self")


class Meter(Protocol):
    """Measures peak memory since `start`, above the level at `start`."""

    def start(self) -> None:
        """Release free memory, and measure from here on."""

    def peak(self) -> int | None:
        """The most memory held since `start`, above that level; None where it is unknown."""


class ResidentMeter:
    """Measures this process's resident memory, on Linux."""

    def __init__(self) -> None:
        self._base = 0

    def start(self) -> None:
        """Release free memory, and measure from here on."""
        gc.collect()
        release_freed_memory()
        (PROC / "clear_refs").write_text("5")  # Sets VmHWM to what is resident now.
        self._base = _status("VmRSS")

    def peak(self) -> int:
        """The most resident memory since `start`, above that level."""
        return max(0, _status("VmHWM") - self._base)


class CudaMeter:
    """Measures the memory that torch's allocator hands out on the current device."""

    def __init__(self) -> None:
        self._base = 0

    def start(self) -> None:
        """Release free memory, and measure from here on."""
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._base = torch.cuda.memory_allocated()

    def peak(self) -> int:
        """The most allocated memory since `start`, above that level."""
        return torch.cuda.max_memory_allocated() - self._base


class NoMeter:
    """Stands in on systems where memory can't be measured."""

    def start(self) -> None:
        """Do nothing."""

    def peak(self) -> None:
        """None: the peak is unknown."""


def meter(device: torch.device) -> Meter:
    """Choose the meter for work on this device."""
    if device.type == "cuda":
        return CudaMeter()
    return ResidentMeter() if sys.platform == "linux" else NoMeter()


def _status(key: str) -> int:
    """Read a size from `/proc/self/status`."""
    for line in (PROC / "status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
