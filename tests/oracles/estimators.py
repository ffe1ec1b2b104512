"""Estimators of a teacher's fit from their definitions, one number at a time, float64 NumPy."""

import numpy as np


def token_ranks(logits, gold):
    return [1 + sum(z > row[g] for z in row) for row, g in zip(logits, gold, strict=True)]


def token_nll(logits, gold):
    logits = np.asarray(logits, dtype=np.float64)
    return [np.log(np.exp(row - row[g]).sum()) for row, g in zip(logits, gold, strict=True)]


def rsr(ranks, nll, clip=100):
    """(1/n Σ_i 1/T_i Σ_t min(rank, clip)) / (1/n Σ_i 1/T_i Σ_t nll)"""
    rank = surprise = 0.0
    for sample, losses in zip(ranks, nll, strict=True):
        rank += sum(min(r, clip) for r in sample) / len(sample) / len(ranks)
        surprise += sum(losses) / len(losses) / len(ranks)
    return rank / surprise


def grace(gradients, splits, smoothing=1e-3):
    """1/S Σ tr(K_train⁻¹ K_test); (1-s)·w + s·mean(w) are the eigenvalues of (1-s)·K + s·tr(K)/d·I.

    Args:
        gradients: [n, d]
        splits: (train, test) indices.
    """
    total = 0.0
    for train, test in splits:
        unit = [g / np.linalg.norm(g) for g in gradients[train]]
        known = sum(np.outer(g, g) for g in unit) / len(train)
        new = sum(np.outer(g, g) for g in gradients[test]) / len(test)
        flat = np.trace(known) / len(known) * np.eye(len(known))
        inverse = np.linalg.inv((1 - smoothing) * known + smoothing * flat)
        total += np.trace(inverse @ new) / len(splits)
    return total
