"""Does confidence mean what it says? n examples, K options, M bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reliability:
    """A reliability diagram: what each bin of confidence was worth."""

    confidence: list[float]
    """Mean confidence of each bin that has examples."""
    accuracy: list[float]
    """Share of right answers in it."""
    count: list[int]


def normalise(log_scores: Floats) -> Floats:
    """[n, K] option log-likelihoods → probabilities over the options."""
    shifted = log_scores - log_scores.max(axis=1, keepdims=True)
    likelihood = np.exp(shifted)
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def bin_index(confidence: Floats, bins: int) -> Ints:
    """Index of the equal-width bin (lo, hi] of each value in [0, 1]; 0 falls into the first."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: Floats, correct: Floats, bins: int = 15) -> Reliability:
    """The reliability diagram of n answers, over equal-width bins."""
    index = bin_index(confidence, bins)
    count = np.bincount(index, minlength=bins)
    used = count > 0
    mean_confidence = np.bincount(index, confidence, bins)[used] / count[used]
    mean_accuracy = np.bincount(index, correct, bins)[used] / count[used]
    return Reliability(mean_confidence.tolist(), mean_accuracy.tolist(), count[used].tolist())


def ece(confidence: Floats, correct: Floats, bins: int = 15) -> float:
    """Expected calibration error, Σ_m |B_m|/n · |acc(B_m) - conf(B_m)| (Guo et al. 2017).

    Args:
        confidence: [n] probability of the chosen answer.
        correct: [n] 1 where it is right.
        bins: M equal-width bins (lo, hi].
    """
    index = bin_index(confidence, bins)
    gaps = np.bincount(index, correct - confidence, bins)
    return float(np.abs(gaps).sum() / len(confidence))


def noise_floor(confidence: Floats, bins: int = 15, *, draws: int = 200, seed: int = 0) -> float:
    """Mean ECE of a perfectly calibrated model with these confidences.

    Outcomes are drawn from the confidences themselves: what is left is sampling noise, so an ECE
    near this figure shows no miscalibration.
    """
    rng = np.random.default_rng(seed)
    outcomes = rng.random((draws, len(confidence))) < confidence
    return float(np.mean([ece(confidence, o.astype(np.float64), bins) for o in outcomes]))


def brier(probabilities: Floats, gold: Ints) -> float:
    """Mean over examples of Σ_c (p_c - y_c)², in [0, 2] (Brier 1950)."""
    return float(brier_each(probabilities, gold).mean())


def brier_each(probabilities: Floats, gold: Ints) -> Floats:
    """[n] Brier score of each example."""
    target = np.eye(probabilities.shape[1])[gold]
    return np.asarray(((probabilities - target) ** 2).sum(axis=1))


def nll_each(probabilities: Floats, gold: Ints) -> Floats:
    """[n] -log p(gold option), in nats; p is kept above 1e-12."""
    return -np.log(np.clip(probabilities[np.arange(len(gold)), gold], 1e-12, None))
