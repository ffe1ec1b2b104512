"""What a step minimises: terms by kind of row, each a mean over its own supervised tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distill_ray.core.divergence import DIVERGENCES, forward_kl
from distill_ray.core.losses import cross_entropy
from distill_ray.core.plugins import find
from distill_ray.core.sums import TokenSum
from distill_ray.data.batches import Batch

TERMS = ("text.ce", "task.ce", "text.kl", "task.kl")
"""Cross-entropy on the data and divergence to the teacher, on running text and on tasks."""


@dataclass(frozen=True)
class Objective:
    """Σ_kind w_kind · [(1-α) · CE_kind / N_kind + α · D_kind / M_kind].

    N counts the tokens that the data supervise, M those that the teacher does; both are counted
    over all ranks and micro-batches of a step.
    """

    alpha: float = 0.0
    """Share of the divergence; 0 trains without a teacher."""
    temperature: float = 1.0
    divergence: str = "forward_kl"
    weights: Mapping[str, float] = field(default_factory=lambda: {"text": 1.0, "task": 1.0})

    def coefficient(self, term: str) -> float:
        """What a term's mean is multiplied with."""
        kind, _, what = term.partition(".")
        return self.weights[kind] * (self.alpha if what == "kl" else 1 - self.alpha)

    def function(self) -> Callable[..., TokenSum]:
        """The divergence."""
        return find(self.divergence, DIVERGENCES)


def masks(batch: Batch) -> dict[str, Tensor]:
    """Term → [B, T] mask of the predictions that it counts."""
    task = batch.is_task[:, None]
    return {
        "text.ce": batch.gold & ~task,
        "task.ce": batch.gold & task,
        "text.kl": batch.distill & ~task,
        "task.kl": batch.distill & task,
    }


def counts(batch: Batch) -> Tensor:
    """[4] supervised tokens of each term, in the order of TERMS."""
    by_term = masks(batch)
    return torch.stack([by_term[term].sum() for term in TERMS])


def term_sums(
    student: Tensor, teacher: Tensor | None, batch: Batch, objective: Objective
) -> dict[str, TokenSum]:
    """Term → its sum over this batch; divergences only with a teacher.

    Args:
        student: [B, T, V] logits.
        teacher: [B, T, V] logits, or None.
        batch: what was fed to both.
        objective: temperature and divergence.
    """
    by_term = masks(batch)
    sums = {
        term: cross_entropy(student, batch.targets, by_term[term])
        for term in ("text.ce", "task.ce")
    }
    if teacher is not None:
        distance = objective.function()
        for term in ("text.kl", "task.kl"):
            sums[term] = distance(
                student, teacher, by_term[term], temperature=objective.temperature
            )
    return sums


def kl_sums(student: Tensor, teacher: Tensor, batch: Batch) -> dict[str, TokenSum]:
    """The plain KL(teacher ‖ student) of a batch, whatever the objective trains with."""
    by_term = masks(batch)
    return {t: forward_kl(student, teacher, by_term[t]) for t in ("text.kl", "task.kl")}
