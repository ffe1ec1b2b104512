"""Where a measurement comes from: machine, versions, command line. Imports no torch."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "datasets",
    "pyarrow",
    "trl",
    "accelerate",
    "deepspeed",
    "ray",
)
"""Packages whose versions a report names."""
ALLOCATOR = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC")
"""Prefixes of the environment variables that change how memory is allocated and kept."""


def provenance() -> dict[str, Any]:
    """Describe machine, versions and command line as plain data."""
    from distill_ray.runtime.manifest import versions  # Imports pyarrow, so not at startup.

    return {
        "machine": {
            "cpu": _cpu_name(),
            "cores": cores(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "system": f"{platform.system()} {platform.release()}",
            "load_average": os.getloadavg()[0],
            "allocator": {k: v for k, v in os.environ.items() if k.startswith(ALLOCATOR)},
        },
        "versions": versions(PACKAGES),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def has_gpu() -> bool:
    """Whether arms will have an NVIDIA GPU, as far as is known without importing torch."""
    from distill_ray.runtime.manifest import versions

    has_device = any(Path("/dev").glob("nvidia[0-9]*"))
    return has_device and not versions(["torch"]).get("torch", "+cpu").endswith("+cpu")


def cores() -> int:
    """Count the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy_s() -> float:
    """CPU seconds that all processes used since the machine started; 0 without /proc/stat."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def wait_for_quiet(patience_s: float, *, look_s: float = 0.5, share: float = 0.05) -> None:
    """Sleep until other processes leave the machine idle, or the time is up.

    Args:
        patience_s: the longest to wait; 0 doesn't look at all.
        look_s: how long the machine must be quiet.
        share: share of all cores' time that still counts as quiet.
    """
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        before = busy_s()
        time.sleep(look_s)
        if busy_s() - before <= share * look_s * cores():
            return


def _cpu_name() -> str:
    """The processor's name, with its family and model number where /proc has them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    info = {key.strip(): value.strip() for key, value in fields.items()}
    name = info.get("model name", platform.machine())
    family, model = info.get("cpu family"), info.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name
