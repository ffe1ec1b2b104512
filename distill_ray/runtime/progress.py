"""Progress as events: stages emit, the command line renders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Event:
    """One line of progress."""

    kind: str
    """`started`, `progress`, `reused`, `finished` or `note`."""
    stage: str
    text: str = ""
    completed: float | None = None
    """Work done, in the unit of `total`."""
    total: float | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the empty ones."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "", {})}


class Progress(Protocol):
    """A listener."""

    def emit(self, event: Event) -> None:
        """Show an event."""


class NullProgress:
    """Drops every event."""

    def emit(self, event: Event) -> None:
        """Do nothing."""
