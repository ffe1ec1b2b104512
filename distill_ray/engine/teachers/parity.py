"""Parity check of two computations of a teacher. n predictions, V vocabulary, k compared ids."""

from __future__ import annotations

import torch
from torch import Tensor

from distill_ray.core.head import Head
from distill_ray.core.head_loss import OneTeacher
from distill_ray.core.sparse import SparseTargets
from distill_ray.core.sparse_bytes import RESOLUTION
from distill_ray.data.batches import Batch
from distill_ray.engine.objective import SupervisedTokens

PLACES = 256
"""Predictions that are compared, at most."""
LIKELIEST = 64
"""Ids of a prediction that are compared, at most: rounding noise is large among the others."""
NOTHING = -50.0
"""Nats below which probabilities are alike: both are nothing."""
TOLERANCE = {"float32": 2e-3, "bfloat16": 0.5}
"""Nats of a log-probability between machines of different kinds. bfloat16 has 8 bits: a logit of
20 is rounded to 0.125, and so is all that leads to it."""
ENCODING = 1.0 / RESOLUTION
"""Nats that the encoding of sparse targets may lose."""


def sample_of(batch: Batch, rows: int) -> tuple[Batch, SupervisedTokens]:
    """Take the first rows of a batch, and evenly spaced predictions of the token that follows."""
    names = ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task")
    part = Batch(**{n: getattr(batch, n)[:rows] for n in names}, row_ids=batch.row_ids[:rows])
    count = part.input_ids.numel()
    positions = torch.arange(0, count, -(-count // PLACES), device=part.input_ids.device)
    terms = torch.ones(4, len(positions), dtype=torch.bool, device=positions.device)
    return part, SupervisedTokens(
        positions, part.targets.flatten()[positions], terms, torch.zeros_like(positions)
    )


@torch.no_grad()
def largest_gap(
    local: Head, remote: OneTeacher, labels: Tensor, *, temperature: float, chunk: int = 32
) -> float:
    """Find the largest difference of two teachers' log-probabilities, in nats.

    Samples are draws: of them, the exact log-probability of `labels` is compared.

    Args:
        local: this process's head on n predictions.
        remote: the other's output for the same, made at the temperature if it is sparse.
        labels: [n] ids that `remote` was made with.
        temperature: τ.
        chunk: predictions at a time.
    """
    gap = 0.0
    for start in range(0, len(local), chunk):
        rows = slice(start, start + chunk)
        distance = _distance(local.logits(rows), remote, rows, labels[rows], temperature)
        gap = max(gap, float(distance.nan_to_num(nan=torch.inf).max()))
    return gap


def _distance(z: Tensor, remote: OneTeacher, rows: slice, labels: Tensor, tau: float) -> Tensor:
    """Compare some rows: [n] or [n, k] nats; z are the local logits [n, V]."""
    if not isinstance(remote, SparseTargets):
        log_p = torch.log_softmax(remote.logits(rows) / tau, dim=-1)
        remote_log_p, ids = log_p.topk(min(LIKELIEST, log_p.shape[-1]))
    elif remote.kind == "samples":
        tau, ids, remote_log_p = 1.0, labels[:, None], -remote.label_nll[rows, None]
    else:
        ids, remote_log_p = remote.ids[rows, :LIKELIEST], remote.log_p[rows, :LIKELIEST]
    local_log_p = torch.log_softmax(z / tau, dim=-1).gather(-1, ids)
    return (local_log_p.clamp_min(NOTHING) - remote_log_p.clamp_min(NOTHING)).abs()


def tolerance(precision: str, remote: OneTeacher) -> float:
    """Give the nats of `largest_gap` that rounding explains."""
    return TOLERANCE[precision] + (ENCODING if isinstance(remote, SparseTargets) else 0.0)
