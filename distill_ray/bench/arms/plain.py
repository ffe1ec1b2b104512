"""The plain loop: what a competent user writes in PyTorch, with none of our code. V vocabulary.

Written by hand on purpose: a yardstick that shares code with what it measures shrinks with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from distill_ray.bench.arms.inputs import Heads, Pair, batch, heads, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import LossWork, StepWork
from distill_ray.data.batches import Batch


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Take distillation steps: both models' full logits, their KL, one backward pass, AdamW."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    optimiser = adamw(pair.student, work)
    for number in turns:
        rows = batch(work, number, pair.vocabulary).to(turns.device)
        turns.done([one_step(pair, optimiser, [rows], work)])


def one_step(
    pair: Pair, optimiser: torch.optim.Optimizer, batches: Sequence[Batch], work: StepWork
) -> float:
    """Take one step over its micro-batches; return the loss before the update."""
    mixed = work.precision == "bfloat16"
    num_supervised = sum(int(rows.teacher_mask.sum()) for rows in batches)
    total = 0.0
    for rows in batches:
        with torch.no_grad():
            teacher_logits = pair.teacher(input_ids=rows.input_ids, use_cache=False).logits
        with torch.autocast(rows.input_ids.device.type, torch.bfloat16, enabled=mixed):
            student_logits = pair.student(input_ids=rows.input_ids, use_cache=False).logits
        loss = sum_kl(student_logits, teacher_logits, rows.teacher_mask) / num_supervised
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    torch.nn.utils.clip_grad_norm_(pair.student.parameters(), work.clip)
    optimiser.step()
    optimiser.zero_grad()
    return total


def sum_kl(student_logits: Tensor, teacher_logits: Tensor, mask: Tensor) -> Tensor:
    """Sum of KL(teacher ‖ student) where the mask is True; logits [B, T, V], mask [B, T] bool."""
    log_q = F.log_softmax(student_logits.float(), dim=-1)
    log_p = F.log_softmax(teacher_logits.float(), dim=-1)
    kl = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)  # [B, T]
    return kl[mask].sum()


def adamw(student: torch.nn.Module, work: StepWork) -> torch.optim.AdamW:
    """Make AdamW, fused as transformers' trainer has it; matrices alone have weight decay."""
    parameters = list(student.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": work.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=work.learning_rate, betas=work.betas, fused=True)


def loss(turns: ArmClient, *, work: LossWork) -> None:
    """Compute the loss alone, through full logits; gradients are checked off the clock."""
    pair_of_heads = heads(work, turns.device)
    for _ in turns:
        value = one_loss(pair_of_heads)
        turns.stop_clock()
        turns.done([value, *pair_of_heads.gradient_norms()])
        pair_of_heads.clear()


def one_loss(pair_of_heads: Heads) -> float:
    """Compute the mean KL of all tokens and its gradients; return the mean."""
    student_logits = pair_of_heads.hidden @ pair_of_heads.weight.T  # [N, V]
    with torch.no_grad():
        teacher_logits = pair_of_heads.teacher_hidden @ pair_of_heads.teacher_weight.T  # [N, V]
    mask = torch.ones(student_logits.shape[0], dtype=torch.bool, device=student_logits.device)
    value = sum_kl(student_logits, teacher_logits, mask) / len(mask)
    value.backward()  # type: ignore[no-untyped-call]
    return value.item()
