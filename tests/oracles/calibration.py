"""Calibration metrics from their definitions, one example at a time, in float64 NumPy."""

import numpy as np


def ece(confidence, correct, bins):
    """Σ_m |B_m|/n · |acc(B_m) - conf(B_m)| over bins (lo, hi]; 0 belongs to the first."""
    total = 0.0
    for m in range(bins):
        low, high = m / bins, (m + 1) / bins
        inside = (confidence > low) & (confidence <= high) | ((m == 0) & (confidence == 0))
        if inside.any():
            gap = abs(correct[inside].mean() - confidence[inside].mean())
            total += inside.sum() / len(confidence) * gap
    return total


def brier(probabilities, gold):
    total = 0.0
    for row, right in zip(probabilities, gold, strict=True):
        total += sum((p - (c == right)) ** 2 for c, p in enumerate(row))
    return total / len(gold)


def nll(probabilities, gold):
    return np.array([-np.log(row[g]) for row, g in zip(probabilities, gold, strict=True)])
