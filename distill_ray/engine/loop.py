"""The loop is an iterator of steps. Ray Train, Ray Tune and tests consume the same one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.schedule import Observation, ScheduleState, Switch, advance, progress
from distill_ray.core.sums import TokenSum
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.objective import TERMS, counts, kl_sums, term_sums
from distill_ray.engine.session import Session, Teaching


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    number: int
    """Steps done, this one included."""
    loss: float
    """The objective, averaged over the global batch."""
    terms: dict[str, float] = field(default_factory=dict)
    """Mean of each term that had tokens, nats per token."""
    tokens: int = 0
    """Supervised predictions of the step, over all ranks."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    teacher: str | None = None
    rung: int | None = None
    switch: Switch | None = None
    """The switch that takes effect with the next step."""
    validation: dict[str, float] | None = None
    progress: float | None = None

    def metrics(self) -> dict[str, Any]:
        """Plain numbers for a tracker."""
        row: dict[str, Any] = {"step": self.number, "loss": self.loss, **self.terms}
        row |= {"grad_norm": self.grad_norm, "learning_rate": self.learning_rate}
        row |= {"tokens": self.tokens}
        if self.teacher is not None:
            row |= {"teacher": self.teacher, "rung": self.rung}
        if self.validation is not None:
            row |= {f"validation.{k}": v for k, v in self.validation.items()}
        if self.progress is not None:
            row["progress"] = self.progress
        return row


def distill(session: Session) -> Iterator[Step]:
    """Train to the end of the budget, one step at a time.

    The session is consistent between two steps: it can be saved there, and a restored one goes on
    with the next step.
    """
    if session.step == 0 and session.validation is not None and session.initial_loss is None:
        session.initial_loss = task_loss(validate(session))
        _measure_best_teacher(session)
    while session.step < session.optim.steps:
        step = _one_step(session)
        session.step += 1
        if step.number % session.stride == 0 or step.switch or step.validation:
            session.history.append(step.metrics())
        yield step


def _one_step(session: Session) -> Step:
    number = session.step + 1
    state = session.teaching.state if session.teaching else None
    loss, terms, tokens, norm = train_step(session)
    due = session.validation is not None and session.validation.due(number)
    measured = validate(session) if due else None
    share = _progress(session, measured)
    # After the last step nobody is left to be taught.
    last = number == session.optim.steps
    switch = None if last else _advance(session.teaching, Observation(number, loss, share))
    return Step(
        number=number,
        loss=loss,
        terms=terms,
        tokens=tokens,
        grad_norm=norm,
        learning_rate=session.optim.learning_rate_at(session.step),
        teacher=state.teacher if state else None,
        rung=state.rung if state else None,
        switch=switch,
        validation=measured,
        progress=share,
    )


def train_step(session: Session) -> tuple[float, dict[str, float], int, float]:
    """One optimiser step: loss, its terms, supervised tokens and the gradient's norm.

    The counts of the whole step, over ranks and micro-batches, are known before the first forward
    pass, so each micro-batch's share of the loss is exact however unequal they are.
    """
    device = session.backend.device
    batches = [session.source.batch(session.step, m).to(device) for m in range(session.num_micro)]
    total = comm.sum_over_ranks(torch.stack([counts(b) for b in batches]).sum(dim=0))
    session.backend.train(True)
    sums = torch.zeros(len(TERMS), dtype=torch.float64, device=device)
    for batch in batches:
        sums += _accumulate(session, batch, total)
    comm.sum_over_ranks(sums)
    norm = session.backend.step(session.optim.learning_rate_at(session.step))
    means = {t: float(s / n) for t, s, n in zip(TERMS, sums, total) if n > 0}
    loss = sum(session.objective.coefficient(t) * mean for t, mean in means.items())
    if not math.isfinite(loss):
        # The sums are global, so every rank stops here.
        raise FloatingPointError(
            f"the loss of step {session.step + 1} is {loss} ({means}): lower the learning rate"
        )
    tokens = int(total[2:].sum() if session.teaching else total[:2].sum())
    return loss, _reported(session, means), tokens, norm


def _reported(session: Session, means: dict[str, float]) -> dict[str, float]:
    return {t: m for t, m in means.items() if session.teaching or t.endswith(".ce")}


def _accumulate(session: Session, batch: Batch, total: Tensor) -> Tensor:
    """Forward and backward of one micro-batch; returns the detached sums of its terms."""
    teacher = None
    if session.teaching is not None:
        _use_current(session.teaching)
        teacher = session.teacher_logits(batch)
    student = session.student_logits(batch)
    sums = term_sums(student, teacher, batch, session.objective)
    # A term without tokens is a zero that keeps its graph, so every rank runs backward.
    shares = [
        session.objective.coefficient(term) * sums[term].total / count.clamp(min=1)
        for term, count in zip(TERMS, total)
        if term in sums
    ]
    session.backend.backward(torch.stack(shares).sum())
    zero = torch.zeros((), device=batch.input_ids.device)
    return torch.stack([sums[t].total.detach() if t in sums else zero for t in TERMS]).double()


def _use_current(teaching: Teaching) -> None:
    teaching.bank.use(teaching.state.teacher, teaching.state.rung)


def validate(session: Session) -> dict[str, float]:
    """Term → mean over the held-out rows, nats per token; `kl` terms only with a teacher."""
    session.backend.train(False)
    if session.teaching is not None:
        _use_current(session.teaching)

    def sums(batch: Batch) -> dict[str, TokenSum]:
        student = session.student_logits(batch)
        found = term_sums(student, None, batch, session.objective)
        if session.teaching is not None:
            found |= kl_sums(student, session.teacher_logits(batch), batch)
        return found

    return _held_out_means(session, sums)


def _measure_best_teacher(session: Session) -> None:
    """The least loss of any teacher's best rung, on the very rows that measure the student."""
    teaching = session.teaching
    if teaching is None or teaching.reassessment is None or teaching.best_loss is not None:
        return

    def sums(batch: Batch) -> dict[str, TokenSum]:
        return term_sums(session.teacher_logits(batch), None, batch, session.objective)

    losses = []
    for name in teaching.ladders.num_rungs:
        teaching.bank.use(name, teaching.ladders.last(name))
        losses.append(task_loss(_held_out_means(session, sums)))
    teaching.best_loss = min(losses)


@torch.no_grad()
def _held_out_means(
    session: Session, sums_of: Callable[[Batch], dict[str, TokenSum]]
) -> dict[str, float]:
    """Term → mean of its sums over all held-out rows and ranks; terms without tokens left out."""
    if session.validation is None:
        return {}
    device = session.backend.device
    table = torch.zeros(2, len(TERMS), dtype=torch.float64, device=device)
    for batch in session.validation.batches():
        sums = sums_of(batch.to(device))
        for i, term in enumerate(TERMS):
            if term in sums:
                table[0, i] += sums[term].total
                table[1, i] += sums[term].tokens
    comm.sum_over_ranks(table)
    return {t: float(s / n) for t, s, n in zip(TERMS, *table) if n > 0}


def task_loss(validation: dict[str, float]) -> float:
    """The loss that progress is measured on: the tasks' gold answers, else the text."""
    return validation.get("task.ce", validation.get("text.ce", float("nan")))


def _progress(session: Session, measured: dict[str, float] | None) -> float | None:
    if measured is None or session.teaching is None or session.teaching.best_loss is None:
        return None
    assert session.initial_loss is not None
    return progress(task_loss(measured), session.initial_loss, session.teaching.best_loss)


def _advance(teaching: Teaching | None, seen: Observation) -> Switch | None:
    """Move the schedule on. Rank 0 decides, so that every rank switches on the same step."""
    if teaching is None:
        return None
    decided: tuple[ScheduleState, Switch | None] = comm.from_rank_zero(
        advance(teaching.state, seen, teaching.ladders, teaching.decide, teaching.reassessment)
    )
    teaching.state, switch = decided
    if switch is not None:
        teaching.switches.append(switch)
    return switch
