"""The bootstrap as it is told: a statistic of every resample, one at a time."""

import numpy as np

from distill_ray.core.intervals import Interval


def bootstrap(statistic, groups, *, resamples=1000, confidence=0.95, seed=0, centre=False):
    """Percentile cluster bootstrap (Davison & Hinkley 1997, section 3.8) of indices → number."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    clusters = [np.flatnonzero(member == g) for g in range(member.max() + 1)]
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


def bootstrap_mean(values, groups, **options):
    """Of a mean."""
    return bootstrap(lambda index: values[index].mean(), groups, **options)
