"""How sure: bootstrap intervals over examples, and a verdict in words. n examples, R resamples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its percentile interval."""

    value: float
    low: float
    high: float

    def excludes_zero(self) -> bool:
        """True when both ends lie on one side of 0."""
        return self.low > 0 or self.high < 0


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    num_examples: int,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of a statistic of example indices.

    Args:
        statistic: indices [n] → number; paired comparisons index both sides alike.
        num_examples: n; at least 1.
        resamples: R.
        confidence: mass of the interval.
        seed: the same seed, the same resamples: intervals of several models are paired.
    """
    if num_examples < 1:
        raise ValueError("a bootstrap needs at least one example")
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(0, num_examples, size=num_examples)) for _ in range(resamples)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(float(statistic(np.arange(num_examples))), float(low), float(high))


def bootstrap_mean(
    values: Floats, *, resamples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Percentile bootstrap of a mean; with differences of paired values, a paired bootstrap."""
    return bootstrap(
        lambda index: float(values[index].mean()),
        len(values),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def verdict(difference: Interval, *, higher_is_better: bool = True) -> str:
    """`better`, `worse` or `no difference shown`, from a paired difference."""
    if not difference.excludes_zero():
        return "no difference shown"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
