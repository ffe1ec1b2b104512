"""Distances of inner states from their definitions, float64 NumPy. N tokens, D numbers each."""

import numpy as np


def cosine(student, teacher):
    lengths = np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return 1 - (student * teacher).sum(axis=-1) / lengths


def mse(student, teacher):
    return ((student - teacher) ** 2).sum(axis=-1) / student.shape[-1]


def squared_error(student, teacher):
    return ((student - teacher) ** 2).sum(axis=-1)


def kl(student, teacher):
    found = np.zeros(len(student))
    for i, (q, p) in enumerate(zip(student, teacher, strict=True)):
        seen = p > 0
        found[i] = (p[seen] * np.log(p[seen] / q[seen])).sum()
    return found
