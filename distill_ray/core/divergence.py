"""Divergences between teacher and student. N tokens, V outcomes: the vocabulary, or ids and a tail.

Every function takes log-probabilities in float32 and gives one number a token, in nats. All are
true divergences: 0 exactly where student and teacher agree. Temperature belongs to the caller, who
softens both sides and multiplies with τ² (Hinton et al. 2015, arXiv 1503.02531), so that no
divergence can forget it. Log-probabilities must be finite; an empty tail is a very low number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Divergence = Callable[..., Tensor]
"""(log_q [N, V] of the student, log_p [N, V] of the teacher, options by keyword) → [N]."""


def forward_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p log(p / q), teacher first: the student covers all that the teacher does.

    Args:
        log_q: [N, V] log-probabilities of the student; receives the gradient.
        log_p: [N, V] log-probabilities of the teacher; a constant.
    """
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1)


def reverse_kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q ‖ p): the student keeps to what the teacher holds likely (arXiv 2306.08543)."""
    return forward_kl(log_p, log_q)


def jsd(log_q: Tensor, log_p: Tensor, *, beta: float = 0.5) -> Tensor:
    """β·KL(p ‖ m) + (1-β)·KL(q ‖ m), m = βp + (1-β)q.

    Generalised Jensen-Shannon divergence (Agarwal et al. 2023, arXiv 2306.13649, eq. 1). As β → 0,
    JSD/β tends to the forward KL.

    Args:
        log_q, log_p: as in `forward_kl`.
        beta: β in (0, 1).

    Raises:
        ValueError: β is outside.
    """
    log_m = _mixture(log_p, log_q, "beta", beta)
    return beta * forward_kl(log_m, log_p) + (1 - beta) * forward_kl(log_m, log_q)


def skew_forward_kl(log_q: Tensor, log_p: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(p ‖ αp + (1-α)q), α = `skew` in (0, 1) (Ko et al. 2024, arXiv 2402.03898, eq. 3)."""
    return forward_kl(_mixture(log_p, log_q, "skew", skew), log_p)


def skew_reverse_kl(log_q: Tensor, log_p: Tensor, *, skew: float = 0.1) -> Tensor:
    """KL(q ‖ (1-α)p + αq), α = `skew` in (0, 1) (Ko et al. 2024, arXiv 2402.03898)."""
    return forward_kl(_mixture(log_q, log_p, "skew", skew), log_q)


def adaptive_kl(log_q: Tensor, log_p: Tensor, *, head_mass: float = 0.5) -> Tensor:
    """g_h/(g_h+g_t)·KL(p ‖ q) + g_t/(g_h+g_t)·KL(q ‖ p) (Wu et al. 2024, arXiv 2404.02657).

    g_h and g_t are Σ|p - q| over the head and the tail of the teacher's distribution. The head is
    its likeliest outcomes as long as their mass is at most `head_mass`, the first one always in.
    The two shares are constants: no gradient flows through them.
    """
    if not 0 < head_mass < 1:
        raise ValueError(f"head_mass must lie between 0 and 1, got {head_mass}")
    head, tail = _gaps(log_q.detach(), log_p.detach(), head_mass)
    # Where both agree there is no gap, and both divergences are 0: any share will do.
    share = torch.where(head + tail > 0, head / (head + tail), torch.full_like(head, 0.5))
    return share * forward_kl(log_q, log_p) + (1 - share) * reverse_kl(log_q, log_p)


def total_variation(log_q: Tensor, log_p: Tensor) -> Tensor:
    """½ Σ |p - q|, in [0, 1]; not in nats."""
    return (log_p.exp() - log_q.exp()).abs().sum(dim=-1) / 2


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "adaptive_kl": adaptive_kl,
    "total_variation": total_variation,
}


def _mixture(log_a: Tensor, log_b: Tensor, name: str, share: float) -> Tensor:
    """log(share·a + (1-share)·b)."""
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {share}")
    return torch.logaddexp(log_a + math.log(share), log_b + math.log1p(-share))


def _gaps(log_q: Tensor, log_p: Tensor, head_mass: float) -> tuple[Tensor, Tensor]:
    """Σ|p - q| over the teacher's head and over its tail, both [N]."""
    p, order = log_p.exp().sort(dim=-1, descending=True)
    gap = (p - log_q.exp().gather(-1, order)).abs()
    in_head = p.cumsum(dim=-1) <= head_mass
    in_head[..., 0] = True
    zero = torch.zeros_like(gap)
    return torch.where(in_head, gap, zero).sum(-1), torch.where(in_head, zero, gap).sum(-1)
