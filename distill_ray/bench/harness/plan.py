"""What to measure: the arms, and how often each takes a turn. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One of the ways to do the work that are compared."""

    name: str
    run: str
    """`package.module:function`, called in a process of its own as `function(turns, **options)`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Sent to the process: plain data or frozen dataclasses."""
    threads: int = 2
    """Threads of each process."""
    ranks: int = 1
    """Processes that do a unit together; a unit takes as long as the slowest."""
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """How many rounds to take, and how long to wait."""

    pairs: int = 5
    warmup: int = 1
    timeout_s: float = 1800.0
    """The longest that building an arm, or one unit, may take."""
    patience_s: float = 0.0
    """The longest to wait, before each unit, for other processes to leave the machine idle."""

    @property
    def rounds(self) -> int:
        """Units that each arm does."""
        return self.warmup + self.pairs
