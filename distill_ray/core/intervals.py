"""How sure: bootstrap intervals over examples, and a verdict in words. n examples, R resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    groups: Sequence[str],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    centre: bool = False,
) -> Interval:
    """Percentile bootstrap (Efron 1979) of a statistic of example indices, by groups.

    Examples of one group are near copies, so groups are drawn, each with all its examples
    (cluster bootstrap, Davison & Hinkley 1997, section 3.8); with every example a group of its
    own this is the ordinary bootstrap.

    Args:
        statistic: indices [n] → number; paired comparisons index both sides alike.
        groups: [n] the group of each example.
        resamples: R.
        confidence: mass of the interval.
        seed: the same seed, the same resamples: intervals of several models are paired.
        centre: take off the resamples' bias, for a statistic that resampling itself raises.

    Raises:
        ValueError: there is no example.
    """
    if not groups:
        raise ValueError("a bootstrap needs at least one example")
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(member, kind="stable")
    clusters = np.split(order, np.cumsum(np.bincount(member))[:-1])
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            statistic(np.concatenate([clusters[c] for c in picked]))
            for picked in rng.integers(0, len(clusters), size=(resamples, len(clusters)))
        ]
    )
    value = float(statistic(np.arange(len(groups))))
    if centre:
        draws = draws - (draws.mean() - value)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(draws, [tail, 100 - tail])
    return Interval(value, float(low), float(high))


def bootstrap_mean(
    values: Floats,
    groups: Sequence[str],
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Cluster bootstrap of a mean; with differences of paired values, a paired bootstrap."""
    return bootstrap(
        lambda index: float(values[index].mean()),
        groups,
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def verdict(difference: Interval, *, higher_is_better: bool = True) -> str:
    """`better`, `worse` or `no difference shown`, from a paired difference."""
    if not difference.excludes_zero():
        return "no difference shown"
    return "better" if (difference.value > 0) == higher_is_better else "worse"
