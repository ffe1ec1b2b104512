"""Agreement of orders from the definitions, one pair and one permutation at a time."""

from itertools import combinations, permutations

import numpy as np


def ranks(values):
    """Place of each value from below; equal values share the mean of their places."""
    return np.array(
        [sum(w < v for w in values) + (sum(w == v for w in values) + 1) / 2 for v in values]
    )


def spearman(x, y):
    """Pearson's correlation of the ranks."""
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def p_value(x, y):
    """Share of all orders of x with at least the observed |Spearman|."""
    seen = abs(spearman(x, y))
    found = [abs(spearman(order, y)) for order in permutations(x)]
    return float(np.mean([value >= seen - 1e-12 for value in found]))


def tau_b(x, y):
    """(concordant - discordant) / √(pairs untied in x · pairs untied in y)."""
    signs = [
        (np.sign(x[i] - x[j]), np.sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)
    ]
    untied = sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs)
    return float(sum(a * b for a, b in signs) / np.sqrt(untied))
