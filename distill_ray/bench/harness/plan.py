"""What is to be measured: arms, and how often they take a turn. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One way to do the work."""

    name: str
    run: str
    """`package.module:function`, called in a process of its own as `function(turns, **options)`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Sent to the process: plain data or frozen dataclasses."""
    threads: int = 2
    """Of each process."""
    ranks: int = 1
    """Processes that do a unit together; it takes as long as the slowest."""
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """How often, and how long to wait."""

    pairs: int = 5
    warmup: int = 1
    timeout_s: float = 1800.0
    """For building an arm, and for one unit."""
    patience_s: float = 0.0
    """Before each unit, how long to wait for other processes to leave the machine alone."""

    @property
    def rounds(self) -> int:
        """Units of each arm."""
        return self.warmup + self.pairs
