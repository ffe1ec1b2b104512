"""Progress as events: stages emit, the command line renders."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Event:
    """Something worth showing."""

    kind: str
    """`started`, `progress`, `reused`, `finished` or `note`."""
    stage: str
    text: str = ""
    done: float | None = None
    """Work done, in the unit of `total`."""
    total: float | None = None
    data: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is empty is left out."""
        return {k: v for k, v in asdict(self).items() if v not in (None, "", {})}


class Progress(Protocol):
    """Whoever listens."""

    def emit(self, event: Event) -> None:
        """Show an event."""


class NullProgress:
    """Nobody listens."""

    def emit(self, event: Event) -> None:
        """Drop an event."""
