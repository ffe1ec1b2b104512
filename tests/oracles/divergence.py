"""Divergences and losses from their definitions, in float64 NumPy. N tokens, V vocabulary."""

import numpy as np


def softmax(logits, temperature=1.0):
    """[N, V] logits → probabilities."""
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def kl(p, q):
    """Sum over rows of Σ_v p log(p / q)."""
    return float(np.sum(p * (np.log(p) - np.log(q))))


def forward_kl(student, teacher, temperature=1.0):
    return temperature**2 * kl(softmax(teacher, temperature), softmax(student, temperature))


def reverse_kl(student, teacher, temperature=1.0):
    return temperature**2 * kl(softmax(student, temperature), softmax(teacher, temperature))


def jsd(student, teacher, temperature=1.0, beta=0.5):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    mixture = beta * p + (1 - beta) * q
    return temperature**2 * (beta * kl(p, mixture) + (1 - beta) * kl(q, mixture))


def cross_entropy(logits, targets):
    """Sum of -log q(target)."""
    return float(-np.log(softmax(logits)[np.arange(len(targets)), targets]).sum())


def gradient(function, at, step=1e-5):
    """Central differences of a scalar function, one coordinate at a time."""
    found = np.zeros_like(at, dtype=np.float64)
    for index in np.ndindex(at.shape):
        up, down = at.astype(np.float64), at.astype(np.float64)
        up[index] += step
        down[index] -= step
        found[index] = (function(up) - function(down)) / (2 * step)
    return found
