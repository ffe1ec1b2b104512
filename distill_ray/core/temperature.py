"""Temperature scaling of option probabilities. n questions, K options, T temperature."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

from distill_ray.core.calibration import Floats, Ints, normalise

LOWEST, HIGHEST = 0.05, 20.0
"""The range in which a temperature is looked for."""


def scaled(log_scores: Floats, temperature: float) -> Floats:
    """[n, K] probabilities softmax(log_scores / T) over the options (Guo et al. 2017, 1706.04599).

    T > 1 makes them less sure, T < 1 surer; the likeliest option stays the likeliest.
    """
    return normalise(log_scores / temperature)


def fit_temperature(log_scores: Floats, answer_index: Ints) -> float:
    """The T in [LOWEST, HIGHEST] with the least mean -log softmax(log_scores / T)[answer].

    Guo et al. 2017 (arXiv 1706.04599). The NLL is convex in 1/T, so a bounded search over log T
    finds its minimum. Its result is compared with T = 1 and with both bounds, and the best of the
    four is returned, ties going to T = 1: on these questions NLL is never worse than unscaled.
    The NLL is not floored, unlike that of `nll_each`.

    Where right options lead everywhere, NLL falls as T does, and T is LOWEST; where they are last
    everywhere, HIGHEST. A right option of -inf costs the same infinite NLL at any T, so its
    question takes no part; without questions, or where options of each tie, T is 1.

    Args:
        log_scores: [n, K] option log-likelihoods, nats; no NaN.
        answer_index: [n] index of the right option.
    """
    possible = np.isfinite(log_scores[np.arange(len(answer_index)), answer_index])
    if not possible.any():
        return 1.0
    # Log-odds against the right option: NLL = log Σ_k exp(odds_k / T).
    odds = log_scores[possible] - log_scores[possible, answer_index[possible]][:, None]

    def nll(temperature: float) -> float:
        return float(np.logaddexp.reduce(odds / temperature, axis=1).mean())

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    result = minimize_scalar(lambda t: nll(np.exp(t)), bounds=bounds, method="bounded")
    return min((1.0, LOWEST, HIGHEST, float(np.exp(result.x))), key=nll)


def cross_fitted(
    log_scores: Floats, answer_index: Ints, groups: Sequence[str], folds: int = 5, *, seed: int = 0
) -> Floats:
    """[n, K] probabilities, each scaled by a temperature fitted on other groups of questions.

    A calibration error of these is not fitted on its own questions, nor on near copies of them.
    Groups are dealt at random over the folds, as evenly as their number allows; fewer groups than
    folds make as many folds as groups. A single group has no others: its T is 1, and its
    probabilities are unscaled.

    Args:
        log_scores: [n, K] option log-likelihoods, nats.
        answer_index: [n] index of the right option.
        groups: [n] the group of each question.
        folds: 2 or more.
        seed: of the deal.

    Raises:
        ValueError: fewer than 2 folds.
    """
    if folds < 2:
        raise ValueError(f"cross-fitting needs 2 folds or more, got {folds}")
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    folds = min(folds, len(names))
    fold = (np.random.default_rng(seed).permutation(len(names)) % folds)[member]
    probabilities = np.empty_like(log_scores, dtype=np.float64)
    for k in range(folds):
        own = fold == k
        probabilities[own] = scaled(
            log_scores[own], fit_temperature(log_scores[~own], answer_index[~own])
        )
    return probabilities
