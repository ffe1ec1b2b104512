"""Rank agreement of predictors with final students. K teachers, S seeds, R resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from distill_ray.core.intervals import Interval

Floats = NDArray[np.float64]
Scores = Mapping[str, float]

PERMUTATIONS = 40320
"""8!: up to 8 teachers every order is tried; above, so many random ones."""


@dataclass(frozen=True)
class Agreement:
    """How well predictions order outcomes, and what following them costs."""

    spearman: float
    p_value: float
    """P-value of |Spearman| under chance, two-sided, by permutation."""
    kendall: float
    """Kendall's tau-b."""
    top_predicted: str
    """The teacher with the highest prediction; of equal ones the first by name."""
    best: str
    """The teacher with the highest outcome; of equal ones the first by name."""
    regret: float
    """Outcome of `best` minus outcome of `top_predicted`, in the outcome's units."""
    regret_share: float
    """Regret as a share of the spread, highest minus lowest outcome; 0 without a spread."""


def agreement(predicted: Scores, outcome: Scores, *, seed: int = 0) -> Agreement:
    """Compare predictions with outcomes; higher is better on both sides.

    Where one side does not tell any two teachers apart, no order agrees or disagrees with it:
    both correlations are 0 and the p-value is 1.

    The p-value is the share of orders with at least this |Spearman|: over all K! orders up to
    8 teachers, over 40,320 random ones and the observed one above. It asks about one predictor;
    the best of many predictors has a smaller one by chance.

    Args:
        predicted: teacher → prediction; the caller flips what is better when lower.
        outcome: teacher → what its student reached; the same teachers.
        seed: of the random orders.

    Raises:
        ValueError: the sides differ in their teachers, are empty, or a number is not finite.
    """
    x, y = _aligned(predicted, outcome)
    top_predicted, best = (min(side, key=lambda n: (-side[n], n)) for side in (predicted, outcome))
    regret = float(outcome[best] - outcome[top_predicted])
    spread = float(y.max() - y.min())
    return Agreement(
        spearman=spearman(x, y),
        p_value=_p_value(x, y, seed),
        kendall=float(stats.kendalltau(x, y).statistic) if _both_vary(x, y) else 0.0,
        top_predicted=top_predicted,
        best=best,
        regret=regret,
        regret_share=regret / spread if spread else 0.0,
    )


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation of two arrays [K], equal values sharing a rank; 0 if one is constant."""
    return float(_spearman_rows(x[None], y[None])[0])


def ceiling(outcomes: Floats) -> float:
    """Measure how well the final outcome under one seed orders the mean outcome under the others.

    The mean Spearman over the seeds, each left out in turn. A finished run is the dearest
    predictor that there is; what a cheaper one has above this is luck. It is of one run against
    a mean over S - 1: a predictor that averages seeds itself may rise above it.

    Args:
        outcomes: [K, S], the outcome of every teacher under every seed.

    Raises:
        ValueError: fewer than two teachers or seeds, or a number is not finite.
    """
    if outcomes.ndim != 2 or min(outcomes.shape) < 2:
        raise ValueError(
            f"outcomes of shape {outcomes.shape}: a ceiling needs [K, S], two teachers and two "
            "seeds at least"
        )
    if not np.isfinite(outcomes).all():
        raise ValueError("an outcome is not finite: leave out the teachers that lack a seed")
    seeds = outcomes.shape[1]
    mean_of_other_seeds = (outcomes.sum(axis=1, keepdims=True) - outcomes) / (seeds - 1)  # [K, S]
    return float(_spearman_rows(outcomes.T, mean_of_other_seeds.T).mean())


def mean_interval(
    domains: Sequence[tuple[Scores, Scores]],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The mean Spearman over domains, with a percentile bootstrap over each domain's teachers.

    Its limits: the domains are those given, not a sample of all domains. A resample holds some
    teachers twice, and those tie on both sides, so the ends are rough; where every order is
    perfect there is no width at all. Simulated with normal scores, 95 % intervals held the true
    mean .95 of the time or more for three domains of 4, 6 or 8 teachers at a true mean of 0 or
    .48. At .89 it was .90 for three domains of 4, .56 for one domain of 4, and .88 for six
    domains of 8, where the bias towards 0 outgrows the width. Read it beside the p-values,
    which hold for any K. One `seed` draws the same teachers for every predictor.

    Args:
        domains: predictions and outcomes of each, as `agreement` takes them.
        resamples: R.
        confidence: mass of the interval.
        seed: of the resamples.

    Raises:
        ValueError: no domain, a domain with fewer than two teachers, or as `agreement`.
    """
    if not domains:
        raise ValueError("a mean over domains needs at least one domain")
    rng = np.random.default_rng(seed)
    drawn, values = np.zeros(resamples), []
    for predicted, outcome in domains:
        x, y = _aligned(predicted, outcome)
        index = _resampled_teachers(len(x), resamples, rng)  # [R, K]
        drawn += _spearman_rows(x[index], y[index]) / len(domains)
        values.append(spearman(x, y))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return Interval(float(np.mean(values)), float(low), float(high))


def _resampled_teachers(
    count: int, resamples: int, rng: np.random.Generator
) -> NDArray[np.int64]:  # [R, K]
    if count < 2:
        raise ValueError("a domain with one teacher has no order: leave it out")
    index = rng.integers(0, count, size=(resamples, count))
    # One teacher over and over has no order either; such a resample is drawn anew.
    while (same := (index == index[:, :1]).all(axis=1)).any():
        index[same] = rng.integers(0, count, size=(int(same.sum()), count))
    return index


def _aligned(predicted: Scores, outcome: Scores) -> tuple[Floats, Floats]:
    """Put both sides in one order of teachers, [K] each."""
    if not outcome:
        raise ValueError("agreement needs at least one teacher")
    if odd := sorted(predicted.keys() ^ outcome.keys()):
        raise ValueError(f"only predicted or only measured: {', '.join(odd)}; give both sides")
    for side, scores in (("prediction", predicted), ("outcome", outcome)):
        if bad := [n for n, v in scores.items() if not np.isfinite(v)]:
            raise ValueError(f"the {side} of {', '.join(bad)} is not finite: leave it out")
    names = list(outcome)
    x, y = (np.array([side[n] for n in names], dtype=np.float64) for side in (predicted, outcome))
    return x, y


def _both_vary(x: Floats, y: Floats) -> bool:
    return bool(np.ptp(x) and np.ptp(y))


def _centred_ranks(values: Floats) -> Floats:
    """Compute twice the mid-ranks minus their mean, along the last axis.

    These are whole numbers, so sums of their products are exact and equal correlations compare
    equal.
    """
    return np.asarray(2 * stats.rankdata(values, axis=-1) - (values.shape[-1] + 1))


def _spearman_rows(x: Floats, y: Floats) -> Floats:
    """Compute the rank correlation of each row: [R, K] against [R, K] → [R]."""
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.asarray((a * b).sum(axis=-1) / np.where(scale > 0, scale, 1.0))


def _p_value(x: Floats, y: Floats, seed: int) -> float:
    if not _both_vary(x, y):
        return 1.0
    a, b = _centred_ranks(x), _centred_ranks(y)

    def distance_from_chance(permuted: Floats, axis: int) -> Floats:
        return np.asarray(np.abs((permuted * b).sum(axis=axis)))

    # Exact by itself where the orders are no more than `n_resamples`.
    result = stats.permutation_test(
        (a,),
        distance_from_chance,
        permutation_type="pairings",
        vectorized=True,
        alternative="greater",
        n_resamples=PERMUTATIONS,
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
