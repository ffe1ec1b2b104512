"""What every study shares: a domain's run up to its teachers, and training jobs on it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from distill_ray.runtime.artifacts import Manifest
from distill_ray.runtime.run import Run

FIRST_SEED = 500
"""Full trainings read the rows in other orders than the probes, whose seeds begin at 0."""


def order_of(run: Run, seed: int) -> int:
    """Seed of the order of the rows of a full training."""
    return run.cfg.seed * 1000 + FIRST_SEED + seed


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
