"""What a bench command and the processes of its arms say to each other. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Start:
    """What a process is to do."""

    run: str
    """`package.module:function`; called with `ArmClient` and the options."""
    options: dict[str, Any]
    threads: int
    total: int
    """Units that will be asked for at most."""
    rank: int = 0
    ranks: int = 1
    rendezvous: str = ""
    """A path that the processes of one arm share, to find each other; nothing is there yet."""


@dataclass(frozen=True)
class Ready:
    """An arm is built and waits for its first turn."""

    device: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failed:
    """An arm raised."""

    error: str
