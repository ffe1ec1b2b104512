"""The distillation objective from its definition, over a whole batch at once, float64 NumPy."""

import numpy as np
from oracles import divergence


def objective(student, teacher, batch, *, alpha, temperature=1.0, weights=None):
    """Σ_kind w · [(1-α) · mean CE + α · mean KL] over the kind's own supervised tokens.

    Args:
        student: [B, T, V] logits.
        teacher: [B, T, V] logits.
        batch: dict of arrays input_ids, gold, distill [B, T] and is_task [B].
    """
    total = 0.0
    for kind, rows in (("text", ~batch["is_task"]), ("task", batch["is_task"])):
        gold, distill = batch["label_mask"] & rows[:, None], batch["teacher_mask"] & rows[:, None]
        targets = np.roll(batch["input_ids"], -1, axis=1)
        weight = (weights or {}).get(kind, 1.0)
        if gold.any():
            nll = divergence.cross_entropy(student[gold], targets[gold])
            total += weight * (1 - alpha) * nll / gold.sum()
        if distill.any():
            kl = divergence.forward_kl(student[distill], teacher[distill], temperature)
            total += weight * alpha * kl / distill.sum()
    return total
