"""Sparse targets of a frozen teacher. N tokens, V vocabulary, k kept, B = k + 1 buckets.

Two kinds. `top_k` keeps the k likeliest ids and the mass of all others as a tail bucket: both
sides are coarsened alike, so every divergence of the buckets is a true one, 0 at match and never
above the full one. `samples` keeps draws from the teacher, target = count / draws (Sparse Logit
Sampling, arXiv 2503.16870): unbiased, but for the forward KL only.

`core/sparse_bytes.py` makes bytes of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distill_ray.core.shapes import require_shape

FLOOR = -1e4
"""The log of nothing, in nats, where buckets are compared: e^FLOOR is 0 even in float64, and
0 · FLOOR is 0 where 0 · -inf is NaN."""


@dataclass(frozen=True)
class SparseTargets:
    """A teacher's distributions over N tokens, in k entries each."""

    ids: Tensor
    """[N, k] int64, distinct within a token. top_k: likeliest first. samples: ascending, then
    the smallest ids that were not drawn, as padding."""
    log_p: Tensor
    """[N, k] float32, log-probabilities at the temperature; samples: log(count / k), padding
    -inf."""
    log_tail: Tensor
    """[N] float32, log of the mass outside `ids`; -inf where there is none, as for samples."""
    entropy: Tensor
    """[N] float32, the exact entropy in nats of the whole distribution at the temperature."""
    label_nll: Tensor
    """[N] float32, the exact -log p(label) in nats at temperature 1; 0 where there is no label."""
    kind: Literal["top_k", "samples"]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def captured(self) -> float:
        """Mean mass that the entries hold; 1 where there is no token."""
        return float(self.log_p.exp().sum(1).mean()) if len(self) else 1.0

    def to(self, device: torch.device | str) -> SparseTargets:
        """Copy to another device."""
        return _combined(lambda x: x[0].to(device), [self])

    def select(self, rows: slice | Tensor) -> SparseTargets:
        """Select tokens by a slice, indices or a [N] mask; `targets[rows]` is the same."""
        return _combined(lambda x: x[0][rows], [self])

    __getitem__ = select


def concatenate(parts: Sequence[SparseTargets]) -> SparseTargets:
    """Join chunks; ValueError unless all have one kind and k."""
    kinds = sorted({(x.kind, x.ids.shape[1]) for x in parts})
    if len(kinds) != 1:
        raise ValueError(f"concatenate needs chunks of one kind and k, got {kinds}")
    return _combined(torch.cat, parts)


def _combined(
    function: Callable[[list[Tensor]], Tensor], parts: Sequence[SparseTargets]
) -> SparseTargets:
    """One set of targets, each tensor a function of the parts' own."""
    return SparseTargets(
        ids=function([x.ids for x in parts]),
        log_p=function([x.log_p for x in parts]),
        log_tail=function([x.log_tail for x in parts]),
        entropy=function([x.entropy for x in parts]),
        label_nll=function([x.label_nll for x in parts]),
        kind=parts[0].kind,
    )


@torch.no_grad()
def top_k(
    logits: Tensor, labels: Tensor | None, *, k: int, temperature: float = 1.0
) -> SparseTargets:
    """The k likeliest ids and the mass of the others.

    Args:
        logits: [n, V] of the teacher.
        labels: [n] int64 ids of the data, negative where there is none.
        k: entries to keep, at most V of them.
        temperature: τ, softens everything but `label_nll`.
    """
    log_p, entropy, label_nll = _measured(logits, labels, temperature)
    top_log_p, ids = log_p.topk(_at_least_one("k", k, logits))
    # The others' own sum: 1 - Σ kept has no digits left where a teacher is certain.
    log_tail = log_p.scatter_(1, ids, -torch.inf).logsumexp(1)
    return SparseTargets(ids, top_log_p, log_tail, entropy, label_nll, kind="top_k")


@torch.no_grad()
def sampled(
    logits: Tensor,
    labels: Tensor | None,
    *,
    samples: int,
    temperature: float = 1.0,
    generator: torch.Generator,
) -> SparseTargets:
    """Ids drawn with replacement from the teacher; unbiased for the forward KL only.

    Args:
        samples: draws a token, at most V of them; the other arguments as in `top_k`.
        generator: on the logits' device; the same state draws the same ids.
    """
    log_p, entropy, label_nll = _measured(logits, labels, temperature)
    # Summed in float64: in float32, rare ids vanish between the steps of a large vocabulary.
    cdf = log_p.exp_().cumsum(1, dtype=torch.float64)
    shape = (len(logits), _at_least_one("samples", samples, logits))
    uniform = torch.rand(shape, dtype=torch.float64, device=logits.device, generator=generator)
    drawn = torch.searchsorted(cdf, uniform * cdf[:, -1:], right=True).sort(1).values
    slot = (drawn.diff(dim=1, prepend=drawn[:, :1]) > 0).cumsum(1)
    counts = torch.zeros_like(drawn).scatter_add_(1, slot, torch.ones_like(drawn))
    return from_counts(torch.zeros_like(drawn).scatter_(1, slot, drawn), counts, entropy, label_nll)


def log_buckets(log_q: Tensor, targets: SparseTargets) -> Tensor:
    """[n, B] the student's log-probabilities of the kept ids, then of all others together.

    Differentiable. Nothing falls below FLOOR, and nothing there has a gradient.

    Args:
        log_q: [n, V] log-probabilities of the student at the targets' temperature.
        targets: of the same n tokens.
    """
    require_shape("log_q", log_q, (len(targets), log_q.shape[-1]))
    # The lowest finite number: a tail of nothing but -inf would have a NaN for gradient.
    masked_log_q = log_q.scatter(1, targets.ids, torch.finfo(log_q.dtype).min)
    return _joined(log_q.gather(1, targets.ids), masked_log_q.logsumexp(1))


def target_buckets(targets: SparseTargets) -> Tensor:
    """[n, B] the teacher's side of `log_buckets`; nothing falls below FLOOR."""
    return _joined(targets.log_p, targets.log_tail)


def forward_kl(log_q: Tensor, targets: SparseTargets) -> Tensor:
    """[n] KL(teacher ‖ student) in nats, differentiable; arguments as in `log_buckets`.

    top_k: Σ p (log p - log q) over the buckets, at most the full one. samples: -Σ t log q less
    the exact entropy, an unbiased value of the full one, which may lie below 0.
    """
    return _forward_kl(log_buckets(log_q, targets), targets)


@torch.no_grad()
def forward_kl_gradient(
    log_q: Tensor, targets: SparseTargets, weight: Tensor | float = 1.0, extra: Tensor | float = 0.0
) -> tuple[Tensor, Tensor]:
    """[n] values of `forward_kl`, and [n, V] weight · gradient + extra · q.

    The gradient is by z / τ, z the student's logits, in closed form: q - p inside `ids`,
    q (1 - p_tail / q_tail) outside, below FLOOR as well. One more multiple of q, such as a
    cross-entropy's gradient has, costs nothing beside it.

    Args:
        log_q: [n, V] log-softmax of z / τ; overwritten by the gradient.
        targets: of the same n tokens.
        weight, extra: [n, 1], or one for all.
    """
    require_shape("log_q", log_q, (len(targets), log_q.shape[-1]))
    kept_log_q = log_q.gather(1, targets.ids)
    log_q.scatter_(1, targets.ids, torch.finfo(log_q.dtype).min)
    peak = log_q.amax(1, keepdim=True)
    gradient = log_q.sub_(peak).exp_()
    log_q_tail = peak[:, 0] + gradient.sum(1).log()
    value = _forward_kl(_joined(kept_log_q, log_q_tail), targets)
    # q (1 - r), r = p_tail / q_tail = e^d, with |1 - r| in log space: r itself may overflow
    # where q has underflowed.
    d = (targets.log_tail - log_q_tail)[:, None]
    log_size = d.clamp_min(0) + (-torch.expm1(-d.abs())).log()
    gradient.mul_(extra * peak.exp() - weight * torch.sign(d) * (peak + log_size).exp())
    inside = (weight + extra) * kept_log_q.exp() - weight * targets.log_p.exp()
    return value, gradient.scatter_(1, targets.ids, inside)


def _forward_kl(log_q: Tensor, targets: SparseTargets) -> Tensor:
    """[n] values from the student's [n, B] buckets."""
    log_p = target_buckets(targets)
    if targets.kind == "samples":
        return -(log_p.exp() * log_q).sum(1) - targets.entropy
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _joined(entries: Tensor, tail: Tensor) -> Tensor:
    return torch.cat([entries, tail[:, None]], dim=1).clamp_min(FLOOR)


def _measured(
    logits: Tensor, labels: Tensor | None, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """log p [n, V] and entropy [n] at the temperature, -log p(label) [n] at 1."""
    below_top = logits.float() - logits.amax(1, keepdim=True)
    label_nll = torch.zeros_like(below_top[:, 0])
    if labels is not None:
        require_shape("labels", labels, logits.shape[:1])
        log_gold = below_top.gather(1, labels.clamp_min(0)[:, None])[:, 0] - below_top.logsumexp(1)
        label_nll = torch.where(labels < 0, label_nll, -log_gold)
    # Not log_softmax: on a CPU its sum is one of float32 terms in turn, off by 5e-5 at V = 128256.
    log_p = below_top.div_(temperature)
    log_p -= log_p.logsumexp(1, keepdim=True)
    return log_p, torch.special.entr(log_p.exp()).sum(1), label_nll


def _at_least_one(name: str, number: int, logits: Tensor) -> int:
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return min(number, logits.shape[-1])


def from_counts(ids: Tensor, counts: Tensor, entropy: Tensor, label_nll: Tensor) -> SparseTargets:
    """Samples from [N, k] ids, drawn ones first, and how often each was drawn, 0 for padding.

    Args:
        ids, counts: [N, k] int64.
        entropy, label_nll: [N], as in `SparseTargets`.
    """
    k = ids.shape[1]
    # Of the ids below k, as many are free as there is padding, or more.
    occupied = torch.zeros(len(ids), k + 1, dtype=torch.bool, device=ids.device)
    occupied.scatter_(1, torch.where(counts > 0, ids, k).clamp_max(k), True)
    free = occupied[:, :k].to(torch.uint8).argsort(dim=1, stable=True)
    padding = torch.arange(k, device=ids.device) - (counts > 0).sum(1, keepdim=True)
    ids = torch.where(counts > 0, ids, free.gather(1, padding.clamp_min(0)))
    nothing = torch.full_like(entropy, -torch.inf)
    return SparseTargets(ids, (counts / k).log(), nothing, entropy, label_nll, kind="samples")
