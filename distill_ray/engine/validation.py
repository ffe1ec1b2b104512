"""Validation losses of the student and its teachers, on held-out rows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from distill_ray.core.head_loss import HeadLoss, TeacherOutput, label_nll
from distill_ray.core.schedule import Checkpoint, progress
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.objective import TERMS, SupervisedTokens, validation_targets
from distill_ray.engine.session import Session


def validate(session: Session, rows: int | None = None) -> dict[str, float]:
    """Measure each term's mean over the held-out rows, nats per token; `kl` only with a teacher.

    Args:
        session: its student is measured.
        rows: number of rows of each stream; None for all.
    """
    session.backend.train(False)
    if session.teaching is not None:
        session.teaching.use_current()

    def sums(batch: Batch, supervised: SupervisedTokens) -> Tensor:
        reference = reference_of(session, batch, supervised, 1.0)
        return supervised.sums(
            session.backend.losses(
                batch, supervised.positions, validation_targets(supervised, reference)
            )
        )

    means = held_out_means(session, sums, rows)
    return {t: m for t, m in means.items() if session.teaching or t.endswith(".ce")}


def measure_best_teacher(session: Session) -> float:
    """Find the least loss of a teacher's best checkpoint, on the rows that measure the student."""
    teaching = session.teaching
    assert teaching is not None
    if teaching.best_loss is None:
        checkpoints = teaching.checkpoints
        best = [(name, checkpoints.last(name)) for name in checkpoints.num_checkpoints]
        teaching.best_loss = min(teacher_loss(session, checkpoint) for checkpoint in best)
    return teaching.best_loss


def teacher_loss(session: Session, checkpoint: Checkpoint) -> float:
    """Measure a checkpoint's own loss on the held-out rows; once, then it is cached."""
    teaching = session.teaching
    assert teaching is not None
    if checkpoint in teaching.losses:
        return teaching.losses[checkpoint]
    source = teaching.source
    source.use(*checkpoint)

    def sums(batch: Batch, supervised: SupervisedTokens) -> Tensor:
        nll = label_nll(
            source.reference(batch, supervised, temperature=1.0), supervised.next_tokens
        )
        return supervised.sums(HeadLoss(nll.sum(), nll, None))

    teaching.losses[checkpoint] = task_loss(held_out_means(session, sums))
    return teaching.losses[checkpoint]


@torch.no_grad()
def held_out_means(
    session: Session, sums_of: Callable[[Batch, SupervisedTokens], Tensor], rows: int | None = None
) -> dict[str, float]:
    """Average each term's sums over the held-out rows of all ranks; terms without tokens drop out.

    Args:
        session: with held-out rows.
        sums_of: computes a batch's sums, [4].
        rows: number of rows of each stream; None for all.
    """
    if session.validation is None:
        return {}
    device = session.backend.device
    table = torch.zeros(2, len(TERMS), dtype=torch.float64, device=device)
    for batch in session.validation.batches(limit=rows):
        batch = batch.to(device)
        supervised = SupervisedTokens.of(batch)
        table += torch.stack([sums_of(batch, supervised), supervised.counts.double()])
    comm.sum_over_ranks(table)
    return {t: float(s / n) for t, s, n in zip(TERMS, *table) if n > 0}


def task_loss(validation: dict[str, float]) -> float:
    """Pick the loss that progress counts: on the tasks' labels, else on text."""
    return validation.get("task.ce", validation.get("text.ce", float("nan")))


def progress_of(session: Session, validation: dict[str, float] | None) -> float | None:
    """Compute the student's progress; None where the best teacher's loss is unknown."""
    if validation is None or session.teaching is None or session.teaching.best_loss is None:
        return None
    assert session.initial_loss is not None
    return progress(task_loss(validation), session.initial_loss, session.teaching.best_loss)


def reference_of(
    session: Session, batch: Batch, supervised: SupervisedTokens, temperature: float
) -> TeacherOutput | None:
    """Get the teacher's output for a batch; None without a teacher."""
    if session.teaching is None:
        return None
    return session.teaching.source.reference(batch, supervised, temperature=temperature)
