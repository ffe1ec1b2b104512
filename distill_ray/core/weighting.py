"""Weights between teacher and labels for each sample, and sets that favour one side. S samples,
n examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Weighting = Callable[[Tensor, Tensor], Tensor]
"""(frozen student's losses [S], teacher's losses [S]) → the teacher's share in each loss [S]."""


def adaptive(frozen_student: Tensor, teacher: Tensor) -> Tensor:
    """w = l_S0 / (l_S0 + l_k), [S] in [0, 1]: 1/2 where both know as much.

    Loss = w · KL + (1 - w) · CE. l_S0 is the loss of a frozen student that was fine-tuned without
    a teacher, l_k that of the checkpoint that teaches: where the student does better by itself, it
    learns from the data. Adaptive Weighting, arXiv 2601.10114.

    Args:
        frozen_student: [S] l_S0, mean -log p(label) of each sample, nats.
        teacher: [S] l_k, the same of the teacher.
    """
    total = frozen_student + teacher
    # Both losses are 0: neither side is better.
    return torch.where(
        total > 0, frozen_student / total.clamp(min=torch.finfo(total.dtype).tiny), 0.5
    )


WEIGHTINGS: dict[str, Weighting] = {"adaptive": adaptive}


def means_of(
    values: Tensor, sample: Tensor, counted: Tensor, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mean of a sample's values, and which samples have any: [S] and [S] bool.

    Args:
        values: [K].
        sample: [K] int64, in [0, S).
        counted: [K] bool; the values that count.
        size: S; by default up to the last sample with values.
    """
    if size is None:
        size = int(sample.max()) + 1 if len(sample) else 0
    sums, counts = (values.new_zeros(size) for _ in range(2))
    sums.index_add_(0, sample, torch.where(counted, values, 0.0))
    counts.index_add_(0, sample, counted.to(values.dtype))
    return sums / counts.clamp(min=1), counts > 0


@dataclass(frozen=True)
class FavourableSets:
    """Samples that each side does better, and by how much (arXiv 2601.10114).

    SFS, the student-favourable set, are those with l_S < l_T; TFS those with l_S > l_T. By
    definition `gain` - `loss` = E[l_T] - E[l_S]: the student beats its teacher iff gain > loss.
    """

    student_share: float
    """Share of the samples in SFS."""
    teacher_share: float
    """Share in TFS; ties are in neither."""
    gain: float
    """E[(l_T - l_S) 1_SFS], nats."""
    loss: float
    """E[(l_S - l_T) 1_TFS], nats."""
    gap: float
    """E[l_T] - E[l_S], nats: the risk gap."""


def favourable_sets(student: NDArray[np.float64], teacher: NDArray[np.float64]) -> FavourableSets:
    """Compare a student with its teacher, example by example.

    Args:
        student: [n] l_S of each example.
        teacher: [n] l_T of the same ones.
    """
    apart = teacher - student
    return FavourableSets(
        student_share=float((apart > 0).mean()),
        teacher_share=float((apart < 0).mean()),
        gain=float(np.clip(apart, 0, None).mean()),
        loss=float(np.clip(-apart, 0, None).mean()),
        gap=float(teacher.mean() - student.mean()),
    )
