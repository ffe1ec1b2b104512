"""From measured factors to a stage-weighted ranking with intervals. K teachers, D draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = Any
"""A number, or an array of draws [D] of it."""

FACTORS = ("ease", "peak", "domain", "calibration")

LEVELS = {"low": 1.0, "medium": 2.0, "high": 3.0, "very_high": 4.0, "critical": 5.0}
"""Importance in words → its weight before normalisation; equal steps, a choice of ours."""


def weights(importances: Mapping[str, str]) -> dict[str, float]:
    """Factor → weight, summing to 1."""
    total = sum(LEVELS[level] for level in importances.values())
    return {factor: LEVELS[level] / total for factor, level in importances.items()}


def weights_at(
    early: Mapping[str, float], late: Mapping[str, float], progress: float
) -> dict[str, float]:
    """Weights between both ends of training, linear in the student's progress in [0, 1]."""
    return {f: (1 - progress) * early[f] + progress * late[f] for f in early}


def stage_score(
    factors: Mapping[str, float],
    early: Mapping[str, float],
    late: Mapping[str, float],
    progress: float,
) -> float:
    """Weighted sum of one teacher's factors, in [0, 1] when they are."""
    return sum(w * factors[f] for f, w in weights_at(early, late, progress).items())


def ease(kl_removed: Numbers, gain: Numbers, best_gain: Numbers) -> Numbers:
    """√(share of the initial KL removed x task gain relative to the best teacher's), in [0, 1].

    The KL that is left would favour weak, low-entropy teachers; a share does not, and the gain
    keeps a teacher that is easy because it says nothing from scoring. A definition of ours.

    Args:
        kl_removed: 1 - KL after / KL before the probe, on held-out rows.
        gain: fall of the gold answers' NLL over the options during the probe, nats per question.
        best_gain: the largest such gain among the teachers.
    """
    best = np.asarray(best_gain, dtype=np.float64)
    relative = np.divide(gain, best, out=np.zeros_like(best * gain), where=best > 0)
    return np.sqrt(_unit(kl_removed) * _unit(relative))


def peak(accuracy: Numbers, chance: float) -> Numbers:
    """Share of the way from the majority class to perfection."""
    return _unit((accuracy - chance) / (1 - chance)) if chance < 1 else 0.0 * accuracy


def domain(nll: Numbers, nll_untrained: float) -> Numbers:
    """Share of the untrained student's NLL on domain text that the teacher removes."""
    return _unit(1 - nll / nll_untrained)


def calibration(ece: Numbers, floor: float, worst: float) -> Numbers:
    """1 at the noise floor of this sample size, 0 at `worst` and above, linear between."""
    if worst <= floor:  # Too few questions to tell more than this.
        return np.asarray(ece <= floor, dtype=np.float64)
    return _unit(1 - (ece - floor) / (worst - floor))


def _unit(value: Numbers) -> Numbers:
    return np.clip(value, 0.0, 1.0)


@dataclass(frozen=True)
class Draws:
    """Samples of every factor of every teacher, each array [D]."""

    factors: Mapping[str, Mapping[str, NDArray[np.float64]]]
    """Teacher → factor → draws."""


@dataclass(frozen=True)
class Standing:
    """One teacher's place at one stage of training."""

    teacher: str
    score: float
    low: float
    high: float
    probability_best: float
    decided_by: str
    """The factor that separates it most from the best other teacher."""


def standings(
    factors: Mapping[str, Mapping[str, float]],
    draws: Draws,
    early: Mapping[str, float],
    late: Mapping[str, float],
    *,
    progress: float,
    confidence: float = 0.95,
) -> list[Standing]:
    """Every teacher's score at this progress, best first.

    Args:
        factors: teacher → factor → point estimate in [0, 1].
        draws: resampled factors, from which the percentile intervals come.
        early: factor → weight at progress 0; sums to 1.
        late: factor → weight at progress 1; sums to 1.
        progress: the student's, in [0, 1].
        confidence: mass of the intervals.
    """
    weight = weights_at(early, late, progress)
    names = list(factors)
    sampled = np.stack([sum_of(draws.factors[n], weight) for n in names])  # [K, D]
    wins = np.bincount(sampled.argmax(axis=0), minlength=len(names)) / sampled.shape[1]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(sampled, [tail, 100 - tail], axis=1)
    score = {n: stage_score(factors[n], early, late, progress) for n in names}
    rows = [
        Standing(
            teacher=n,
            score=score[n],
            low=float(low[i]),
            high=float(high[i]),
            probability_best=float(wins[i]),
            decided_by=_decided_by(n, factors, score, weight),
        )
        for i, n in enumerate(names)
    ]
    return sorted(rows, key=lambda row: -row.score)


def sum_of(
    draws: Mapping[str, NDArray[np.float64]], weight: Mapping[str, float]
) -> NDArray[np.float64]:
    """Weighted sum of factor draws, [D]."""
    return np.asarray(np.sum([w * draws[f] for f, w in weight.items()], axis=0))


def _decided_by(
    teacher: str,
    factors: Mapping[str, Mapping[str, float]],
    score: Mapping[str, float],
    weight: Mapping[str, float],
) -> str:
    others = [n for n in score if n != teacher]
    if not others:
        return "no other teacher"
    rival = max(others, key=lambda n: score[n])
    sign = 1 if score[teacher] >= score[rival] else -1
    return max(weight, key=lambda f: sign * weight[f] * (factors[teacher][f] - factors[rival][f]))
