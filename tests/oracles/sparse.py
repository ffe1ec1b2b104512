"""Sparse targets from their definitions, float64 NumPy. N tokens, V vocabulary, k kept."""

import numpy as np
from oracles.divergence import softmax


def coarsened(p, ids):
    """[N, V] probabilities → [N, k + 1]: those of the ids, then the sum of all others."""
    rows = np.arange(len(p))[:, None]
    others = np.ones(p.shape, dtype=bool)
    others[rows, ids] = False
    return np.concatenate([p[rows, ids], np.where(others, p, 0).sum(1, keepdims=True)], axis=1)


def likeliest(logits, k, temperature=1.0):
    """[N, k] ids of the largest probabilities, largest first."""
    return np.argsort(-softmax(logits, temperature), axis=1)[:, :k]


def kl(p, q):
    """[N] Σ p log(p / q) of each token; outcomes without mass count for nothing."""
    held = p > 0
    return np.where(held, p * np.log(np.where(held, p, 1) / np.where(held, q, 1)), 0).sum(1)


def top_k_kl(student, teacher, k, temperature=1.0):
    """[N] forward KL of the teacher's k likeliest ids and all others as one outcome."""
    ids = likeliest(teacher, k, temperature)
    p, q = (softmax(x, temperature) for x in (teacher, student))
    return kl(coarsened(p, ids), coarsened(q, ids))


def entropy(p):
    """[N] -Σ p log p in nats."""
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(1)
