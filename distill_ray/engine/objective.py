"""What a step minimises: terms by kind of row, each a mean over its own supervised tokens.

B batch, T tokens, K supervised: the predictions of a batch that anything supervises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.divergence import DIVERGENCES, Divergence, forward_kl
from distill_ray.core.head_loss import HeadLoss, LossTargets, TeacherOutput
from distill_ray.core.plugins import find
from distill_ray.core.weighting import Weighting, means_of
from distill_ray.data.batches import Batch

TERMS = ("text.ce", "task.ce", "text.kl", "task.kl")
"""Cross-entropy on the data and divergence to the teacher, on running text and on tasks."""


@dataclass(frozen=True)
class Losses(HeadLoss):
    """Losses of a batch's supervised predictions."""

    matched: Tensor | None = None
    """[kinds, K] distances of inner layers, constants; None where nothing is matched."""


def starts_of(batch: Batch) -> Tensor:
    """Mark the first token of each sample, [B, T] bool."""
    starts = batch.position_ids == 0
    starts[:, 0] = True  # A sample may continue from another row.
    return starts


@dataclass(frozen=True)
class SupervisedTokens:
    """The supervised predictions of a batch: the only ones that a head is applied to."""

    positions: Tensor
    """[K] int64 places in the flattened [B, T]."""
    next_tokens: Tensor
    """[K] int64 the token that follows."""
    term_mask: Tensor
    """[4, K] bool; which term counts which prediction, in the order of TERMS."""
    sample: Tensor
    """[K] int64 which of the batch's samples it belongs to."""

    @classmethod
    def of(cls, batch: Batch) -> SupervisedTokens:
        """Collect the supervised predictions of a batch, on its device."""
        labelled, distilled = batch.label_mask.flatten(), batch.teacher_mask.flatten()
        positions = (labelled | distilled).nonzero()[:, 0]
        labelled, distilled = labelled[positions], distilled[positions]
        task = batch.is_task.repeat_interleave(batch.label_mask.shape[1])[positions]
        term_mask = torch.stack(
            [labelled & ~task, labelled & task, distilled & ~task, distilled & task]
        )
        sample = starts_of(batch).flatten().cumsum(dim=0)[positions] - 1
        return cls(positions, batch.targets.flatten()[positions], term_mask, sample)

    @property
    def counts(self) -> Tensor:
        """[4] number of predictions of each term."""
        return self.term_mask.sum(dim=1)

    @property
    def labels(self) -> Tensor:
        """[K] the token that follows; -1 where the data don't supervise it."""
        return self.next_tokens.where(self.term_mask[:2].any(dim=0), -1)

    def sums(self, losses: HeadLoss) -> Tensor:
        """Sum each term, [4] float64; 0 where it wasn't computed. Two more per matched kind."""
        nothing = torch.zeros_like(losses.cross_entropy)
        values = [losses.cross_entropy, nothing if losses.divergence is None else losses.divergence]
        matched = losses.matched if isinstance(losses, Losses) else None
        values += [] if matched is None else [*matched]
        masks = torch.cat([self.term_mask, *[self.term_mask[2:]] * (len(values) - 2)])
        rows = torch.stack(values).repeat_interleave(2, dim=0)  # [terms, K]
        # Selected, not multiplied: values outside the mask may be NaN.
        return torch.where(masks, rows, 0.0).sum(dim=1, dtype=torch.float64)


@dataclass(frozen=True)
class Objective:
    """Σ_kind w_kind · [(1-α) · CE_kind / N_kind + (α · D_kind + Σ_m v_m · S_kind,m) / M_kind].

    N counts the tokens that the data supervise, M those that the teacher does; both are counted
    over all ranks and micro-batches of a step. S_m are distances of inner layers that are matched.
    Where samples are weighted, a sample's own w stands for α inside the sums.
    """

    alpha: float = 0.0
    """Share of the divergence; 0 trains without a teacher."""
    temperature: float = 1.0
    divergence: str = "forward_kl"
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=lambda: {"text": 1.0, "task": 1.0})
    match: Mapping[str, float] = field(default_factory=dict)
    """v: kind of state that is matched → its weight."""
    weighting: Weighting | None = None
    """Replaces α on samples with labels; samples without labels take 1."""

    @property
    def terms(self) -> tuple[str, ...]:
        """TERMS, and two for each kind of state that is matched."""
        return (*TERMS, *(f"{kind}.{what}" for what in self.match for kind in ("text", "task")))

    def coefficient(self, term: str) -> float:
        """Give the factor of a term's mean in the loss."""
        kind, _, what = term.partition(".")
        alpha = {"ce": 1 - self.alpha, "kl": self.alpha}
        shares = {**(alpha if self.weighting is None else {"ce": 1.0, "kl": 1.0}), **self.match}
        return self.weights[kind] * shares[what]

    @property
    def counted(self) -> list[int]:
        """Indices of terms with a nonzero coefficient. Others have no gradient and may be NaN."""
        return [i for i, term in enumerate(self.terms) if self.coefficient(term)]

    def means(self, sums: Tensor, total: Tensor) -> dict[str, float]:
        """Give the mean of each term that had tokens and was computed.

        Args:
            sums: [terms] sums of a whole step.
            total: [4] counts of that step.
        """
        counts = torch.cat([total, *(total[2:] for _ in self.match)])
        return {
            term: float(s / n)
            for term, s, n in zip(self.terms, sums, counts)
            if n > 0 and (term.endswith(".ce") or self.coefficient(term))
        }

    def loss(self, means: Mapping[str, float]) -> float:
        """Add up the total loss from the terms' means."""
        shares = {term: self.coefficient(term) for term in means}
        return sum(share * means[term] for term, share in shares.items() if share)

    def function(self) -> Divergence:
        """Look up the divergence by its name."""
        return find(self.divergence, DIVERGENCES)

    def supervision(
        self,
        supervised: SupervisedTokens,
        total: Tensor,
        reference: TeacherOutput | None,
        share: Tensor | None = None,
    ) -> LossTargets:
        """Build the targets of this micro-batch's share of a step's loss.

        Args:
            supervised: predictions of the micro-batch.
            total: [4] counts of the whole step.
            reference: the teacher's output for the same predictions.
            share: [K] the teacher's share in each of them, where samples are weighted.
        """
        coefficients = total.new_tensor([self.coefficient(t) for t in TERMS], dtype=torch.float32)
        parts = coefficients / total.clamp(min=1)  # [4]
        # [4, K]; the two kinds of row exclude each other.
        weights = supervised.term_mask * parts[:, None]
        if share is not None:
            weights = weights * torch.stack([1 - share, 1 - share, share, share])
        reference = reference if self.alpha or share is not None else None
        return LossTargets(
            labels=supervised.next_tokens,
            label_weight=weights[:2].sum(dim=0),
            reference=reference,
            reference_weight=None if reference is None else weights[2:].sum(dim=0),
            divergence=self.function(),
            options=dict(self.options),
            temperature=self.temperature,
        )

    def shares(
        self, supervised: SupervisedTokens, frozen_student: Tensor, teacher: Tensor
    ) -> Tensor:
        """Compute the teacher's share in each prediction [K], which is that of its sample.

        Args:
            supervised: predictions of the micro-batch.
            frozen_student: [K] the frozen student's -log p(label), anything where there is none.
            teacher: [K] the teacher's -log p(label).
        """
        assert self.weighting is not None
        labelled = supervised.term_mask[:2].any(dim=0)
        l_0, has_labels = means_of(frozen_student, supervised.sample, labelled)
        l_k, _ = means_of(teacher, supervised.sample, labelled)
        return torch.where(has_labels, self.weighting(l_0, l_k), 1.0)[supervised.sample]

    def match_weight(self, supervised: SupervisedTokens, total: Tensor) -> Tensor:
        """Compute each prediction's share in the terms of matched states, [K].

        Args:
            supervised: predictions of the micro-batch.
            total: [4] counts of the whole step.
        """
        weights = total.new_tensor([self.weights[k] for k in ("text", "task")], dtype=torch.float32)
        share = weights / total[2:].clamp(min=1)  # [2]
        return (supervised.term_mask[2:] * share[:, None]).sum(dim=0)


def validation_targets(
    supervised: SupervisedTokens, reference: TeacherOutput | None
) -> LossTargets:
    """Build the targets of validation: cross-entropy, and plain KL(teacher ‖ student)."""
    flags = supervised.term_mask.float()
    return LossTargets(
        labels=supervised.next_tokens,
        label_weight=flags[:2].sum(dim=0),
        reference=reference,
        reference_weight=None if reference is None else flags[2:].sum(dim=0),
        divergence=forward_kl,
    )
