"""Where a figure comes from: machine, versions, command line. Imports no torch."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distill_ray import __version__

PACKAGES = ("torch", "transformers", "trl", "accelerate", "deepspeed", "ray")
ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC")
"""Beginnings of the environment variables that change how memory is given and kept."""


def provenance() -> dict[str, Any]:
    """Machine, versions and command line as plain data."""
    return {
        "machine": {
            "cpu": _cpu(),
            "cores": cores(),
            "memory_bytes": _memory(),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": os.getloadavg()[0],
            "allocator": {k: v for k, v in os.environ.items() if k.startswith(ALLOCATOR)},
        },
        "versions": versions(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def versions() -> dict[str, str]:
    """Ours, Python's and those of the packages that do the work, as far as installed."""
    by_package = {"distill_ray": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = version(package)
        except PackageNotFoundError:
            continue
    return by_package


def has_gpu() -> bool:
    """Whether arms will find an NVIDIA GPU, as far as can be told without torch."""
    has_device = any(Path("/dev").glob("nvidia[0-9]*"))
    return has_device and not versions().get("torch", "+cpu").endswith("+cpu")


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_s() -> float:
    """CPU seconds that all processes have used since the machine started; 0 if it doesn't tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience_s: float, *, look_s: float = 0.5, share: float = 0.05) -> None:
    """Sleep until others leave the machine alone, or patience ends.

    Args:
        patience_s: 0 doesn't look at all.
        look_s: how long it must have been quiet.
        share: of all cores' time, what still counts as quiet.
    """
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before = busy_s()
        time.sleep(look_s)
        if busy_s() - before <= share * look_s * cores():
            return


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu() -> str:
    """The processor's name; its model number where that says more (`AMD EPYC`, family 25)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    info = {key.strip(): value.strip() for key, value in named.items()}
    name = info.get("model name", platform.machine())
    family, model = info.get("cpu family"), info.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name
