"""Many bootstrap intervals from one drawing of groups. n examples, G groups, R resamples, M bins.

Percentile bootstrap (Efron 1979). Examples of one group are near copies, so groups are drawn, each
with all its examples (cluster bootstrap, Davison & Hinkley 1997, section 3.8); with every example a
group of its own this is the ordinary bootstrap. A statistic of every resample comes from the
product of a [R, G] matrix of counts with sums over groups: a table of intervals in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.intervals import Interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BLOCK = 2**22
"""Numbers of a [resamples, examples] matrix that exist at a time."""


class Resamples:
    """R drawings of G groups with replacement.

    Args:
        groups: [n] the group of each example.
        resamples: R.
        confidence: mass of the intervals.
        seed: the same seed, the same resamples: intervals of several models are paired, and those
            of a mean of paired differences are the paired bootstrap's.

    Raises:
        ValueError: there is no example.
    """

    def __init__(
        self,
        groups: Sequence[str],
        *,
        resamples: int = 1000,
        confidence: float = 0.95,
        seed: int = 0,
    ) -> None:
        if not len(groups):
            raise ValueError("a bootstrap needs at least one example")
        self._confidence = confidence
        self._member = np.unique(np.asarray(groups), return_inverse=True)[1]  # [n]
        self._groups = int(self._member.max()) + 1
        rng, shape = np.random.default_rng(seed), (resamples, self._groups)
        rows = rng.integers(0, self._groups, size=shape)
        counts = [np.bincount(row, minlength=self._groups) for row in rows]
        self._counts = np.asarray(counts, dtype=np.uint32)  # [R, G]

    def interval(self, value: float, draws: Floats, *, centre: bool = False) -> Interval:
        """Compute the percentile interval.

        Args:
            value: the statistic of all examples.
            draws: [R] the statistic of each resample; NaN where it has none.
            centre: take off the resamples' bias, for a statistic that resampling itself raises.
        """
        if centre:
            draws = draws - (np.nanmean(draws) - value)
        tail = 100 * (1 - self._confidence) / 2
        low, high = np.nanpercentile(draws, [tail, 100 - tail])
        return Interval(float(value), float(low), float(high))

    def means(self, values: Floats) -> Floats:
        """Compute the mean of [n] values in each resample, [R]."""
        return self._ratios(values, np.ones(len(values)))

    def mean(self, values: Floats) -> Interval:
        """Bootstrap the mean of [n] values."""
        return self.interval(float(np.mean(values)), self.means(values))

    def ratio(self, top: Floats, bottom: Floats) -> Interval:
        """Bootstrap the ratio of two sums over [n] examples, such as losses and tokens."""
        return self.interval(float(top.sum() / bottom.sum()), self._ratios(top, bottom))

    def calibration_error(self, index: Ints, confidence: Floats, outcome: Floats) -> Interval:
        """Σ_m |Σ_{i in B_m} outcome_i - confidence_i| over the number of confidences.

        Bins are those of the whole sample. Fewer distinct examples a bin make every resample's
        error larger, so the interval is centred.

        Args:
            index: [n] or [n, K] bin of each confidence; for K columns, each with bins of its own.
            confidence: the same shape.
            outcome: the same shape; 1 where what is confided in comes true.
        """
        bins, columns = int(index.max()) + 1, confidence.size // len(confidence)
        gaps = (outcome - confidence).reshape(len(confidence), columns)
        place = self._member[:, None] * bins + index.reshape(gaps.shape)
        sums = np.bincount(place.ravel(), gaps.ravel(), self._groups * bins)
        errors = [
            np.abs(counts @ sums.reshape(self._groups, bins)).sum(axis=1)
            for counts in self._blocks(self._groups)
        ]
        sizes = self._sums(np.ones(len(confidence))) * columns
        value = np.abs(np.bincount(index.ravel(), gaps.ravel())).sum() / confidence.size
        return self.interval(float(value), np.concatenate(errors) / sizes, centre=True)

    def auroc(self, confidence: Floats, correct: Floats) -> Interval | None:
        """P(a right answer is surer than a wrong one), ties counting half; None without a pair.

        Args:
            confidence: [n] any score that rises with certainty.
            correct: [n] 1 where the answer is right.
        """
        if len(np.unique(correct)) < 2:
            return None
        order = np.argsort(confidence, kind="stable")
        _, starts = np.unique(confidence[order], return_index=True)  # of equal confidences
        right, member = correct[order], self._member[order]
        draws = [
            _auroc(counts[:, member], right, starts) for counts in self._blocks(len(confidence))
        ]
        value = _auroc(np.ones((1, len(confidence))), right, starts)[0]
        return self.interval(float(value), np.concatenate(draws))

    def _ratios(self, top: Floats, bottom: Floats) -> Floats:
        return self._sums(top) / self._sums(bottom)

    def _sums(self, values: Floats) -> Floats:
        """Sum [n] values in each resample, [R]."""
        by_group = np.bincount(self._member, values, self._groups)
        return np.concatenate([counts @ by_group for counts in self._blocks(self._groups)])

    def _blocks(self, width: int) -> Iterator[Floats]:
        """Yield the counts, in float64 and some resamples at a time."""
        step = max(1, _BLOCK // width)
        for start in range(0, len(self._counts), step):
            yield self._counts[start : start + step].astype(np.float64)


def _auroc(weights: Floats, right: Floats, starts: Ints) -> Floats:
    """[r] weighted AUROC of examples in order of confidence; NaN where there is no pair.

    Args:
        weights: [r, n] how often each example counts.
        right: [n].
        starts: first example of each distinct confidence.
    """
    positive = np.add.reduceat(weights * right, starts, axis=1)
    negative = np.add.reduceat(weights * (1 - right), starts, axis=1)
    below = negative.cumsum(axis=1) - negative / 2
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    won = (positive * below).sum(axis=1)
    return np.asarray(np.divide(won, pairs, out=np.full_like(won, np.nan), where=pairs > 0))


def equal_mass(confidence: Floats, bins: int) -> Ints:
    """[n] the bin of each value among M of equal mass, those of `calibration.adaptive_ece`."""
    last = np.ceil(np.arange(1, bins + 1) * len(confidence) / bins).astype(np.int64) - 1
    return np.searchsorted(np.sort(confidence)[last], confidence)
