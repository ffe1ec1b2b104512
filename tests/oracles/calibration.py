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


def adaptive_ece(confidence, correct, bins):
    """Σ_m |B_m|/n · |acc(B_m) - conf(B_m)| over slices of the sorted examples, all distinct."""
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    total, start = 0.0, 0
    for m in range(1, bins + 1):
        end = -(-m * len(order) // bins)
        inside = order[start:end]
        if inside:
            gap = np.mean([correct[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / len(order) * abs(gap)
        start = end
    return total


def classwise_ece(probabilities, gold, bins):
    options = range(probabilities.shape[1])
    return np.mean([ece(probabilities[:, k], gold == k, bins) for k in options])


def full_ece(p, gold, bins):
    """Counts, sums and hits of bins (lo, hi], and Σ_m |B_m|/N · |acc(B_m) - conf(B_m)|."""
    came = np.zeros(p.shape, bool)
    came[np.arange(len(gold)), gold] = True
    counts, mass, hits, total = [], [], [], 0.0
    for m in range(bins):
        inside = (p > m / bins) & (p <= (m + 1) / bins) | ((m == 0) & (p == 0))
        counts.append(inside.sum())
        mass.append(p[inside].sum())
        hits.append((came & inside).sum())
        if counts[-1]:
            gap = hits[-1] / counts[-1] - mass[-1] / counts[-1]
            total += counts[-1] / len(p) * abs(gap)
    return counts, mass, hits, total


def auroc(confidence, correct):
    """Share of (right, wrong) pairs in which the right one is surer; a tie is half a pair."""
    right = [c for c, r in zip(confidence, correct, strict=True) if r]
    wrong = [c for c, r in zip(confidence, correct, strict=True) if not r]
    won = sum((a > b) + 0.5 * (a == b) for a in right for b in wrong)
    return won / (len(right) * len(wrong))


def scaled_nll(log_scores, gold, temperature):
    """Mean -log softmax(log_scores / T)[gold], nats."""
    total = 0.0
    for row, right in zip(log_scores / temperature, gold, strict=True):
        high = max(row)
        total += high + np.log(sum(np.exp(v - high) for v in row)) - row[right]
    return total / len(gold)
