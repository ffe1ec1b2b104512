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


def skew_forward_kl(student, teacher, temperature=1.0, skew=0.1):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * kl(p, skew * p + (1 - skew) * q)


def skew_reverse_kl(student, teacher, temperature=1.0, skew=0.1):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * kl(q, (1 - skew) * p + skew * q)


def total_variation(student, teacher, temperature=1.0):
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    return temperature**2 * float(np.abs(p - q).sum()) / 2


def head_share(p, q, head_mass):
    """g_h / (g_h + g_t) of one token, walking down the teacher's tokens from the likeliest."""
    gaps, mass = [0.0, 0.0], 0.0
    for place, v in enumerate(np.argsort(-p, kind="stable")):
        mass += p[v]
        in_tail = place > 0 and mass > head_mass
        gaps[int(in_tail)] += abs(p[v] - q[v])
    return gaps[0] / sum(gaps)


def adaptive_kl(student, teacher, temperature=1.0, head_mass=0.5, shares=None):
    """`shares`: of each token, where they are constants."""
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    total = 0.0
    for i, (pi, qi) in enumerate(zip(p, q, strict=True)):
        share = head_share(pi, qi, head_mass) if shares is None else shares[i]
        total += share * kl(pi, qi) + (1 - share) * kl(qi, pi)
    return temperature**2 * total


def with_constant_shares(definition, z, *, at, teacher, row):
    """A definition at z [1, V], with the adaptive KL's shares taken at the row itself."""
    call = getattr(definition, "func", definition)
    if call is not adaptive_kl:
        return definition(z, teacher[row : row + 1])
    options = definition.keywords
    tau = options.get("temperature", 1.0)
    p, q = softmax(teacher[row], tau), softmax(at[row], tau)
    share = head_share(p, q, options.get("head_mass", 0.5))
    return definition(z, teacher[row : row + 1], shares=[share])
