"""Estimates with intervals, and verdicts in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """True when both ends lie on one side of 0."""
        return self.low > 0 or self.high < 0


def verdict(difference: Interval, *, higher_is_better: bool = True) -> str:
    """`better`, `worse` or `no difference shown`, from a paired difference."""
    if not difference.excludes_zero():
        return "no difference shown"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
