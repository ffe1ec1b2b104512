"""From measured factors to a ranking by phase of training, with intervals. K teachers, D draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = Any
"""A number, or an array of draws [D] of it."""

FACTORS = ("learnability", "accuracy_above_chance", "domain_knowledge", "calibration")

LEVELS = {"low": 1.0, "medium": 2.0, "high": 4.0, "very_high": 8.0, "critical": 16.0}
"""Importance in words → its weight before normalisation: each counts twice the one below it. A
choice of ours, made on the study's domains (`docs/results/tried.md` says how)."""


def weights(importances: Mapping[str, str]) -> dict[str, float]:
    """Factor → weight, summing to 1."""
    total = sum(LEVELS[level] for level in importances.values())
    return {factor: LEVELS[level] / total for factor, level in importances.items()}


def weights_at(
    early: Mapping[str, float], late: Mapping[str, float], progress: float
) -> dict[str, float]:
    """Interpolate the early and late weights, linearly in the student's progress in [0, 1]."""
    return {f: (1 - progress) * early[f] + progress * late[f] for f in early}


def weighted_score(
    factors: Mapping[str, float],
    early: Mapping[str, float],
    late: Mapping[str, float],
    progress: float,
) -> float:
    """Weighted sum of one teacher's factors, in [0, 1] when they are."""
    return sum(w * factors[f] for f, w in weights_at(early, late, progress).items())


def learnability(moved: Numbers, best_moved: Numbers) -> Numbers:
    """√(what the student took over in the probe, relative to the best teacher), in [0, 1].

    In nats, not as a share of the initial KL: the teachers of which the largest share goes are
    those that have the least to say (`docs/results/tried.md` shows by how much). The root keeps
    one that hands over little from counting as if it handed over nothing. A definition of ours.

    Args:
        moved: fall of KL(teacher ‖ student) on held-out answers during the probe, nats per token.
        best_moved: the largest such fall among the teachers.
    """
    best = np.asarray(best_moved, dtype=np.float64)
    share = np.divide(moved, best, out=np.zeros_like(best * moved), where=best > 0)
    return np.sqrt(_unit(share))


def target_log_p(teacher: Floats, unaided: Floats, alpha: float) -> Floats:
    """What the objective pulls the student to: log(α·p + (1 - α)·r), [n, K].

    The minimum over q of α·KL(p ‖ q) + (1 - α)·CE(r, q) is this mixture. p is the teacher; r, what
    the labels teach by themselves, is estimated by a student that had no teacher. Both are taken
    over everything that could be said, not over the options alone: a teacher that puts hardly any
    probability on the options leaves r's answers standing, one that is sure and wrong overrides
    them.

    Args:
        teacher: [n, K] the teacher's log-likelihood of each option.
        unaided: [n, K] that of the control probe.
        alpha: α, the objective's share of the teacher.
    """
    with np.errstate(divide="ignore"):
        mixed = np.logaddexp(np.log(alpha) + teacher, np.log(1 - alpha) + unaided)
    return np.asarray(mixed)


def accuracy_above_chance(accuracy: Numbers, chance: float) -> Numbers:
    """Share of the way from the majority class to perfection."""
    return _unit((accuracy - chance) / (1 - chance)) if chance < 1 else 0.0 * accuracy


def skill(loss: Numbers, reference: float) -> Numbers:
    """Share of a reference's loss that is gone (a skill score, Murphy 1973).

    With the Brier score of the base rates as the reference it is (resolution - reliability) /
    uncertainty: 0 for the base rates, however well calibrated they are, and 1 for answers that are
    sure and right.
    """
    return _unit(1 - loss / reference) if reference > 0 else 0.0 * loss


def _unit(value: Numbers) -> Numbers:
    return np.clip(value, 0.0, 1.0)


@dataclass(frozen=True)
class Draws:
    """Samples of every factor of every teacher, each array [D]."""

    factors: Mapping[str, Mapping[str, NDArray[np.float64]]]
    """Teacher → factor → draws."""


@dataclass(frozen=True)
class LeaderboardEntry:
    """One teacher's place at one phase of training."""

    teacher: str
    score: float
    low: float
    high: float
    probability_best: float
    decided_by: str
    """The factor that separates it most from the best other teacher."""


def leaderboard(
    factors: Mapping[str, Mapping[str, float]],
    draws: Draws,
    early: Mapping[str, float],
    late: Mapping[str, float],
    *,
    progress: float,
    confidence: float = 0.95,
) -> list[LeaderboardEntry]:
    """Score every teacher at this progress, best first.

    Args:
        factors: teacher → factor → point estimate in [0, 1].
        draws: resampled factors, from which the percentile intervals come.
        early: factor → weight at progress 0; sums to 1.
        late: factor → weight at progress 1; sums to 1.
        progress: the student's progress, in [0, 1].
        confidence: mass of the intervals.
    """
    weight = weights_at(early, late, progress)
    names = list(factors)
    sampled = np.stack([sum_of(draws.factors[n], weight) for n in names])  # [K, D]
    wins = np.bincount(sampled.argmax(axis=0), minlength=len(names)) / sampled.shape[1]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(sampled, [tail, 100 - tail], axis=1)
    score = {n: weighted_score(factors[n], early, late, progress) for n in names}
    rows = [
        LeaderboardEntry(
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
    """Weigh and sum factor draws, [D]."""
    return np.asarray(np.sum([w * draws[f] for f, w in weight.items()], axis=0))


def _decided_by(
    teacher: str,
    factors: Mapping[str, Mapping[str, float]],
    score: Mapping[str, float],
    weight: Mapping[str, float],
) -> str:
    rivals = [n for n in score if n != teacher]
    if not rivals:
        return "no other teacher"
    rival = max(rivals, key=lambda n: score[n])
    sign = 1 if score[teacher] >= score[rival] else -1
    return max(weight, key=lambda f: sign * weight[f] * (factors[teacher][f] - factors[rival][f]))
