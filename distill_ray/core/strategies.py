"""Ensemble strategies: the weight of each teacher in each sample. S samples, M teachers.

A strategy is a function of `EnsembleBatch` that gives weights [S, M]; each sample's sum to 1. Its
options are keyword arguments. A teacher computes a packed row only if it has weight in it, so
one teacher per row costs as much as a single teacher. What the student imitates is the mixture
Σ_m w_m p_m of probabilities. KL(Σ w_m p_m ‖ q) and Σ w_m KL(p_m ‖ q) differ by what q has no part
in, so their gradients are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import torch
from torch import Tensor


@dataclass(frozen=True)
class EnsembleBatch:
    """The samples of a batch, as strategies see them."""

    teachers: Sequence[str]
    """Names of the M teachers."""
    keys: Sequence[str]
    """Key of each packed row's appearance, on any number of workers. No two appearances in a run
    share one, nor do runs of two seeds."""
    streams: Sequence[str]
    """Stream of each packed row: a corpus, `<task>.labelled` or `<task>.prompts`."""
    row: Tensor
    """[S] int64 the packed row that a sample is in."""
    losses: Callable[[], tuple[Tensor, Tensor]]
    """Computes the mean -log p_m(label) of each sample in nats, [S, M], and which samples have
    labels, [S] bool. All teachers run on all rows for that."""

    def one_hot(self, teacher_index: Sequence[int]) -> Tensor:
        """[S, M] weights with all weight of a row on one teacher.

        Args:
            teacher_index: index of the teacher of each packed row.
        """
        index = torch.tensor(teacher_index, dtype=torch.int64, device=self.row.device)
        return torch.nn.functional.one_hot(index[self.row], len(self.teachers)).float()

    def uniform(self) -> Tensor:
        """[S, M] equal weights."""
        size = len(self.teachers)
        return torch.full((len(self.row), size), 1 / size, device=self.row.device)


Strategy = Callable[..., Tensor]
"""(EnsembleBatch, options by keyword) → [S, M] weights."""


def average(batch: EnsembleBatch) -> Tensor:
    """Weigh all teachers equally: w_m = 1 / M."""
    return batch.uniform()


def at_random(batch: EnsembleBatch) -> Tensor:
    """Draw one teacher for each appearance of a packed row, uniformly: E[w_m] = 1 / M.

    So the expected gradient of the forward KL is the average's, at the cost of one teacher.
    """
    size = len(batch.teachers)
    digests = (blake2b(key.encode(), digest_size=8).digest() for key in batch.keys)
    return batch.one_hot([int.from_bytes(digest, "big") % size for digest in digests])


def by_domain(batch: EnsembleBatch, *, assignment: Mapping[str, str]) -> Tensor:
    """Assign a teacher to each stream.

    Args:
        batch: the samples.
        assignment: stream → teacher.
    """
    place = {name: m for m, name in enumerate(batch.teachers)}
    return batch.one_hot([place[assignment[stream]] for stream in batch.streams])


def confidence(batch: EnsembleBatch) -> Tensor:
    """Weigh each sample's teachers by their losses CE_m on its labels; equally where it has none.

    CA-MKD, arXiv 2201.00007. It gates weakly: no weight is above 1 / (M - 1).
    """
    losses, known = batch.losses()
    return torch.where(known[:, None], confidence_weights(losses), batch.uniform())


def confidence_weights(losses: Tensor) -> Tensor:
    """w_m = (1 - softmax_m(CE_m)) / (M - 1), [S, M]; 1 for a single teacher.

    Args:
        losses: [S, M] CE_m in nats.
    """
    size = losses.shape[1]
    return (1 - losses.softmax(dim=1)) / (size - 1) if size > 1 else torch.ones_like(losses)


STRATEGIES: dict[str, Strategy] = {
    "average": average,
    "random": at_random,
    "by_domain": by_domain,
    "confidence": confidence,
}


def require_weights(weights: Tensor, batch: EnsembleBatch) -> Tensor:
    """Check a strategy's weights and return them in float32. NaN passes: the step is then skipped.

    Raises:
        ValueError: their shape isn't [S, M], one is below 0, or a sample's don't sum to 1.
    """
    shape = (len(batch.row), len(batch.teachers))
    if tuple(weights.shape) != shape:
        raise ValueError(f"a strategy's weights have shape {list(weights.shape)}, not {shape}")
    wrong = (weights < 0).any(dim=1) | ((weights.sum(dim=1) - 1).abs() > 1e-3)
    if bool(wrong.any()):
        example = weights[wrong][0].tolist()
        raise ValueError(f"a sample's weights must be 0 or above and sum to 1, got {example}")
    return weights.float()


def best_of(losses: Mapping[str, Mapping[str, float]], order: Sequence[str]) -> dict[str, str]:
    """Domain → the teacher with the least loss there; of equal ones the first in `order`.

    Args:
        losses: domain → teacher → nats.
        order: names of the teachers.
    """
    return {domain: min(order, key=lambda t: row[t]) for domain, row in losses.items()}


def member_checkpoint(checkpoint_index: int, own: int, longest: int) -> int:
    """A member's checkpoint while the ensemble is at `checkpoint_index`.

    Each member moves through its own checkpoints in equal periods: all start at their first one
    and end at their best.

    Args:
        checkpoint_index: of the ensemble, which has as many as the member with the most.
        own: number of the member's checkpoints.
        longest: number of checkpoints of the member with the most.
    """
    return checkpoint_index * own // longest
