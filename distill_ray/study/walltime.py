"""How long a study took, from what its artifacts say: the same whether or not it was killed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from distill_ray.runtime.artifacts import Manifest


def busy_s(manifests: Iterable[Manifest]) -> float:
    """Seconds in which at least one artifact was being made.

    Each was from `wall_s` before `created` until then. What a kill has cut off isn't in it, nor
    are starts of processes.
    """
    ends = [(datetime.fromisoformat(m.created).timestamp(), m.wall_s) for m in manifests]
    total, until = 0.0, float("-inf")
    for start, end in sorted((end - wall, end) for end, wall in ends):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total
