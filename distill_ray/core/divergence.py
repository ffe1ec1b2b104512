"""How far a student is from a teacher. B batch, T tokens, V vocabulary, N kept tokens.

Every function is a true divergence: 0 where student and teacher agree, in log space and float32,
with τ² scaling so that gradients stay comparable across temperatures (Hinton et al. 2015,
arXiv 1503.02531). Tokens are selected before anything is computed: masked NaNs cannot leak, and
an empty mask keeps a graph, so that every rank still runs backward.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_ray.core.sums import TokenSum

Divergence = Callable[..., TokenSum]


def forward_kl(
    student: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0
) -> TokenSum:
    """Sum of τ²·KL(teacher ‖ student) over kept tokens, in nats.

    Args:
        student: [B, T, V] logits; receives the gradient.
        teacher: [B, T, V] logits; a constant.
        mask: [B, T] bool; True where a token counts.
        temperature: τ, softens both sides.

    Raises:
        ValueError: the shapes don't fit.
    """
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    kl = F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return TokenSum(temperature**2 * kl, mask.sum())


def reverse_kl(
    student: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0
) -> TokenSum:
    """Sum of τ²·KL(student ‖ teacher) over kept tokens; arguments as in `forward_kl`."""
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    kl = F.kl_div(log_p, log_q, reduction="sum", log_target=True)
    return TokenSum(temperature**2 * kl, mask.sum())


def jsd(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    *,
    temperature: float = 1.0,
    beta: float = 0.5,
) -> TokenSum:
    """Sum of τ²·[β·KL(P ‖ M) + (1-β)·KL(Q ‖ M)], M = βP + (1-β)Q, P teacher, Q student.

    Generalised Jensen-Shannon divergence (Agarwal et al. 2023, arXiv 2306.13649, eq. 1). As β → 0,
    JSD/β tends to the forward KL.

    Args:
        beta: β in (0, 1); the other arguments as in `forward_kl`.
    """
    if not 0 < beta < 1:
        raise ValueError(f"beta must lie between 0 and 1, got {beta}")
    log_q, log_p = _log_probs(student, teacher, mask, temperature)
    weights = torch.tensor([beta, 1 - beta], device=log_q.device).log()
    log_m = torch.logaddexp(log_p + weights[0], log_q + weights[1])
    towards_p = F.kl_div(log_m, log_p, reduction="sum", log_target=True)
    towards_q = F.kl_div(log_m, log_q, reduction="sum", log_target=True)
    return TokenSum(temperature**2 * (beta * towards_p + (1 - beta) * towards_q), mask.sum())


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
}


def _log_probs(
    student: Tensor, teacher: Tensor, mask: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """log q and log p of the kept tokens, both [N, V] in float32."""
    require_shape("teacher", teacher, student.shape)
    require_shape("mask", mask, student.shape[:-1])
    log_q = F.log_softmax(student[mask].float() / temperature, dim=-1)
    log_p = F.log_softmax(teacher.detach()[mask].float() / temperature, dim=-1)
    return log_q, log_p


def require_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    """Raise ValueError unless `tensor` has this shape."""
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {list(tensor.shape)}, needs {list(shape)}")
