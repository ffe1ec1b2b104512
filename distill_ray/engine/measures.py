"""Measurements that a schedule may request, on held-out rows. All ranks measure together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distill_ray.core.divergence import Divergence, forward_kl, reverse_kl
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.schedule import Checkpoint, progress
from distill_ray.data.batches import Batch
from distill_ray.engine.loop import train_step
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.session import Measurement, Session, SkippedSteps, Teaching
from distill_ray.engine.validation import (
    held_out_means,
    measure_best_teacher,
    progress_of,
    task_loss,
    teacher_loss,
    validate,
)


def divergences(
    session: Session, checkpoints: Sequence[Checkpoint], *, to_best: bool
) -> Measurement:
    """Measure how far checkpoints p_k are, in nats per token; kinds of row weigh as in the loss.

    Args:
        session: its teacher's source must give whole distributions.
        checkpoints: checkpoints of one teacher, its best one last.
        to_best: measure `best`, KL(p_T* ‖ p_k), beside `student`, KL(p_S ‖ p_k).
    """
    teaching = _teaching(session)
    session.backend.train(False)
    best = _held_out_heads(session, checkpoints[-1]) if to_best else []
    distances: dict[Checkpoint, dict[str, float]] = {}
    for place, checkpoint in enumerate(checkpoints):
        teaching.source.use(*checkpoint)
        if place + 1 < len(checkpoints):
            teaching.source.expect(*checkpoints[place + 1])
        distances[checkpoint] = {"student": _distance_to_student(session)}
        if to_best:
            distances[checkpoint]["best"] = _distance_to_best(session, iter(best))
    return Measurement(distances)


def _distance_to_student(session: Session) -> float:
    """Measure KL(student ‖ checkpoint in use)."""

    def sums(batch: Batch, supervised: SupervisedTokens) -> Tensor:
        targets = _divergence_only(supervised, _head(session, batch, supervised), reverse_kl)
        return supervised.sums(session.backend.losses(batch, supervised.positions, targets))

    return _weighted_kl(session, held_out_means(session, sums))


def _distance_to_best(session: Session, best: Iterator[Head]) -> float:
    """Measure KL(best checkpoint ‖ checkpoint in use), from the best one's heads on each batch."""

    def sums(batch: Batch, supervised: SupervisedTokens) -> Tensor:
        targets = _divergence_only(supervised, next(best), forward_kl)
        return supervised.sums(head_loss(_head(session, batch, supervised), targets))

    return _weighted_kl(session, held_out_means(session, sums))


def probes(
    session: Session, checkpoints: Sequence[Checkpoint], *, steps: int, rows: int | None = None
) -> Measurement:
    """Train a few steps with each checkpoint from the current student, and undo them.

    `moved`: fall of KL(p_k ‖ student) on held-out answers, nats per token; `gain`: fall of the
    student's own loss there; `closed`: share of the gap from the initial student to the best
    teacher that the checkpoint has closed itself; `nll`: its own loss.

    Args:
        session: between two steps, at least one of which is left.
        checkpoints: the candidates; all see the same batches.
        steps: of each.
        rows: held-out rows of each stream that the falls are measured on; None for all.
    """
    assert session.initial_loss is not None
    teaching = _teaching(session)
    best = measure_best_teacher(session)
    gains: dict[Checkpoint, dict[str, float]] = {}
    student_progress = progress_of(session, validate(session))
    # Random state is restored after the probes, and batches are announced again.
    teaching.source.forget()
    session.loaded.clear()
    devices = [torch.cuda.current_device()] if session.backend.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        before = session.backend.snapshot()
        for checkpoint in checkpoints:
            # The same student with another teacher; its log and history are discarded.
            teacher, checkpoint_index = checkpoint
            state = replace(teaching.state, teacher=teacher, checkpoint_index=checkpoint_index)
            trial = replace(
                session,
                teaching=replace(teaching, state=state, stalls=[], in_use=None, upcoming=None),
                skipped=SkippedSteps(limit=session.optim.steps),
                loaded={},
                history=[],
            )
            start = validate(trial, rows)
            for _ in range(min(steps, session.optim.steps - session.step)):
                train_step(trial)
                trial.step += 1
            end = validate(trial, rows)
            before.restore()
            nll = teacher_loss(session, checkpoint)
            gains[checkpoint] = {
                "moved": _task_kl(start) - _task_kl(end),
                "gain": task_loss(start) - task_loss(end),
                "closed": progress(nll, session.initial_loss, best),
                "nll": nll,
            }
    teaching.source.forget()
    return Measurement(gains, student_progress)


MEASURES: Mapping[str, Callable[..., Measurement]] = {"divergences": divergences, "probes": probes}


def _teaching(session: Session) -> Teaching:
    assert session.teaching is not None
    return session.teaching


@torch.no_grad()
def _held_out_heads(session: Session, checkpoint: Checkpoint) -> list[Head]:
    """Compute a checkpoint's heads on every held-out batch, held while other checkpoints serve."""
    _teaching(session).source.use(*checkpoint)
    assert session.validation is not None
    heads: list[Head] = []
    for batch in session.validation.batches():
        on_device = batch.to(session.backend.device)
        head = _head(session, on_device, SupervisedTokens.of(on_device))
        # The next checkpoint may be swapped into these very weights.
        first = heads[0].weights if heads else tuple(w.clone() for w in head.weights)
        heads.append(replace(head, weights=first))
    return heads


def _head(session: Session, batch: Batch, supervised: SupervisedTokens) -> Head:
    output = _teaching(session).source.reference(batch, supervised, temperature=1.0)
    if not isinstance(output, Head):
        raise ValueError("distances between checkpoints need whole distributions, not cached ids")
    return output


def _divergence_only(
    supervised: SupervisedTokens, reference: Head, divergence: Divergence
) -> LossTargets:
    return LossTargets(
        labels=supervised.next_tokens,
        label_weight=torch.zeros_like(supervised.next_tokens, dtype=torch.float32),
        reference=reference,
        reference_weight=supervised.term_mask[2:].any(dim=0).float(),
        divergence=divergence,
    )


def _task_kl(validation: Mapping[str, float]) -> float:
    return validation.get("task.kl", validation.get("text.kl", math.nan))


def _weighted_kl(session: Session, means: Mapping[str, float]) -> float:
    """Average the kinds' mean divergences, weighted as the loss weighs them."""
    weights = {k: session.objective.weights[k] for k in ("text", "task") if f"{k}.kl" in means}
    total = sum(weights.values())
    return sum(w * means[f"{kind}.kl"] for kind, w in weights.items()) / total if total else 0.0
