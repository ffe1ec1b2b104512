"""Messages between a bench command and the processes of its arms. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Start:
    """Tells a process which arm to build."""

    run: str
    """`package.module:function`; called with `ArmClient` and the options."""
    options: dict[str, Any]
    threads: int
    total: int
    """The most units that will be requested."""
    rank: int = 0
    ranks: int = 1
    rendezvous: str = ""
    """A path, without a file yet, by which the processes of one arm find each other."""


@dataclass(frozen=True)
class Ready:
    """Tells the command that an arm is built and waits for its first turn."""

    device: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """Tells the command that an arm raised."""

    error: str
