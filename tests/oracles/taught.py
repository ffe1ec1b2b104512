"""Factors of what a teacher would teach, from their definitions. n questions, K options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def factors(
    said: Any, gold: Sequence[int], unaided: Any = None, alpha: float = 1.0
) -> dict[str, float]:
    """`accuracy_above_chance`, `domain_knowledge` and `calibration` of one task.

    Args:
        said: [n, K] the teacher's log-likelihoods.
        gold: [n] right options.
        unaided: [n, K] those of a student without a teacher; None leaves it out.
        alpha: the teacher's share.
    """
    p = np.exp(np.asarray(said, dtype=np.float64))
    if unaided is not None:
        p = alpha * p + (1 - alpha) * np.exp(np.asarray(unaided, dtype=np.float64))
    p = p / p.sum(axis=1, keepdims=True)
    n, options = p.shape
    rates = np.array([sum(g == k for g in gold) / n for k in range(options)])
    truth = np.array([[float(g == k) for k in range(options)] for g in gold])
    right = float(np.mean(p.argmax(axis=1) == np.array(gold)))
    # The base rates' NLL is their entropy; their Brier score is the chance of two unlike answers.
    entropy = -sum(r * np.log(r) for r in rates if r)
    found = {
        "accuracy_above_chance": (right - rates.max()) / (1 - rates.max()),
        "domain_knowledge": 1 - float(-(truth * np.log(p)).sum(axis=1).mean()) / entropy,
        "calibration": 1 - float(((p - truth) ** 2).sum(axis=1).mean()) / (1 - (rates**2).sum()),
    }
    return {name: float(np.clip(value, 0, 1)) for name, value in found.items()}
