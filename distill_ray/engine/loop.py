"""The training loop is an iterator of steps, which Ray Train, Ray Tune and tests consume alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from distill_ray.core.head_loss import TeacherOutput, label_nll
from distill_ray.core.matching import MatchTargets
from distill_ray.core.mixture import Mixture
from distill_ray.core.schedule import MeasurementRequest, Observation, Switch, advance
from distill_ray.data.batches import Batch
from distill_ray.engine import comm
from distill_ray.engine.backends.allocator import release_freed_memory
from distill_ray.engine.objective import SupervisedTokens
from distill_ray.engine.session import Session
from distill_ray.engine.skipped_steps import judge
from distill_ray.engine.validation import (
    measure_best_teacher,
    progress_of,
    reference_of,
    task_loss,
    validate,
)

WEIGHTED = ("loss", "share", "counted")
"""Extra sums of a micro-batch where samples are weighted."""


@dataclass(frozen=True)
class Step:
    """What one optimiser step did."""

    number: int
    """Number of finished steps, this one included."""
    loss: float
    """The objective, averaged over the global batch."""
    terms: dict[str, float] = field(default_factory=dict)
    """Mean of each term that had tokens, nats per token."""
    tokens: int = 0
    """Supervised predictions of the step, over all ranks."""
    grad_norm: float = 0.0
    learning_rate: float = 0.0
    teacher: str | None = None
    checkpoint_index: int | None = None
    tokens_by_teacher: dict[str, float] = field(default_factory=dict)
    """Teacher → its part of `tokens`; for an ensemble, the sum of its weights."""
    switch: Switch | None = None
    """The switch that takes effect with the next step."""
    validation: dict[str, float] | None = None
    progress: float | None = None

    def metrics(self) -> dict[str, Any]:
        """Give plain numbers for a tracker."""
        numbers = {"loss": self.loss, **self.terms, "grad_norm": self.grad_norm}
        # JSON and charts can't hold NaN or infinity: leave such numbers out.
        row: dict[str, Any] = {k: v for k, v in numbers.items() if math.isfinite(v)}
        row |= {"step": self.number, "learning_rate": self.learning_rate}
        row |= {"tokens": self.tokens}
        if self.teacher is not None:
            row |= {"teacher": self.teacher, "checkpoint_index": self.checkpoint_index}
        if len(self.tokens_by_teacher) > 1:
            row |= {f"tokens.{name}": count for name, count in self.tokens_by_teacher.items()}
        if self.validation is not None:
            row |= {f"validation.{k}": v for k, v in self.validation.items()}
        if self.progress is not None:
            row["progress"] = self.progress
        return row


def distill(session: Session) -> Iterator[Step]:
    """Train to the end of the budget, or until it stops early, one step at a time.

    The session is consistent between two steps: it can be saved there, and a restored session
    continues with the next step.
    """
    if session.step == 0 and session.validation is not None and session.initial_loss is None:
        session.initial_loss = task_loss(validate(session))
        if session.teaching is not None and session.teaching.rules.reassessment is not None:
            measure_best_teacher(session)
    if session.step == 0 and session.teaching is not None and not session.teaching.state.begun:
        _advance(session, Observation(0, math.nan))
    while session.step < session.optim.steps:
        stop = session.stopping
        # Every rank stops at the same step: history holds global numbers.
        if stop is not None and stop.due(checkpoint_losses(session.history, stop.ends)):
            return
        number = session.step + 1
        state = session.teaching.state if session.teaching else None
        loss, terms, tokens, norm = train_step(session)
        due = session.validation is not None and session.validation.due(number)
        validation = validate(session) if due else None
        progress = progress_of(session, validation)
        learning_rate = session.learning_rate
        # The last step needs no decision about a next teacher.
        last = number == session.optim.steps
        switch = None if last else _advance(session, Observation(number, loss, progress))
        step = Step(
            number=number,
            loss=loss,
            terms=terms,
            tokens=tokens,
            grad_norm=norm,
            learning_rate=learning_rate,
            teacher=state.teacher if state else None,
            checkpoint_index=state.checkpoint_index if state else None,
            tokens_by_teacher=session.teaching.step_tokens if session.teaching else {},
            switch=switch,
            validation=validation,
            progress=progress,
        )
        session.step += 1
        for name, count in step.tokens_by_teacher.items():
            session.tokens_by_teacher[name] = session.tokens_by_teacher.get(name, 0) + count
        if number % session.stride == 0 or switch or validation:
            session.history.append(step.metrics())
        yield step


def checkpoint_losses(history: Sequence[Mapping[str, Any]], ends: Sequence[int]) -> list[float]:
    """List the validation loss at each checkpoint that a training curve has reached.

    Args:
        history: rows of `Step.metrics`.
        ends: steps after which a checkpoint is kept.
    """
    rows = {row["step"]: row for row in history}
    return [task_loss(validation_of(rows[end])) for end in ends if end in rows]


def validation_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Select the validation terms of a curve's row."""
    prefix = "validation."
    return {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}


def train_step(session: Session) -> tuple[float, dict[str, float], int, float]:
    """Take one optimiser step; returns loss, its terms, supervised tokens and the gradient's norm.

    The counts of the whole step, over ranks and micro-batches, are known before the first forward
    pass, so each micro-batch's share of the loss is exact, however unequal they are. A step with a
    non-finite loss or gradient changes no weight; its batches are quarantined.
    """
    if session.teaching is not None:
        session.teaching.use_current(session.step)
    batches = session.batches()
    supervised = [SupervisedTokens.of(batch) for batch in batches]
    total = comm.sum_over_ranks(torch.stack([s.counts for s in supervised]).sum(dim=0))
    session.backend.train(True)
    parts = torch.stack(
        [_forward_backward(session, b, s, total) for b, s in zip(batches, supervised)]
    )
    sums = comm.sum_over_ranks(parts.sum(dim=0))
    norm = session.backend.step(session.learning_rate)
    means = session.objective.means(sums, total)
    loss = session.objective.loss(means)
    if session.objective.weighting is not None:
        weighted_loss, shares, counted = sums[-len(WEIGHTED) :].tolist()
        loss, means["share"] = weighted_loss, shares / max(1.0, counted)
    # Loss and norm are global, so every rank decides alike.
    judge(
        session.skipped, session.step + 1, loss, norm, batches, parts[:, session.objective.counted]
    )
    if session.backend.device.type == "cpu":
        release_freed_memory()
    tokens = int(total[2:].sum() if session.teaching else total[:2].sum())
    if session.teaching is not None:
        session.teaching.count_tokens(tokens, sums[len(session.objective.terms) :].tolist())
    return loss, means, tokens, norm


def _forward_backward(
    session: Session, batch: Batch, supervised: SupervisedTokens, total: Tensor
) -> Tensor:
    """Run forward and backward of one micro-batch; returns the sums of its terms.

    After them come each ensemble member's tokens, and `WEIGHTED`, where they apply.
    """
    teaching, objective, next_tokens = session.teaching, session.objective, supervised.next_tokens
    reference: TeacherOutput | None
    match_targets = None
    if teaching is not None and teaching.matched_layers is not None:
        teacher, matched = teaching.state.teacher, teaching.matched_layers
        reference, states = matched.source.answer(batch, supervised, matched.layers(teacher))
        match_targets = MatchTargets(teacher, states, objective.match_weight(supervised, total))
    else:
        reference = reference_of(session, batch, supervised, objective.temperature)
    share = None
    if objective.weighting is not None:
        assert session.frozen_student is not None and reference is not None
        frozen_student = session.frozen_student.reference(batch, supervised, temperature=1.0)
        share = objective.shares(
            supervised, label_nll(frozen_student, next_tokens), label_nll(reference, next_tokens)
        )
    targets = objective.supervision(supervised, total, reference, share)
    # With no supervised prediction the loss is a zero with a graph: every rank runs backward.
    losses = session.backend.losses(batch, supervised.positions, targets, match_targets)
    session.backend.backward(losses.total)
    sums = supervised.sums(losses)
    if isinstance(reference, Mixture):
        taught = supervised.term_mask[2:].any(dim=0)
        member_weights = reference.weights[taught].double().nan_to_num()
        sums = torch.cat([sums, member_weights.sum(dim=0)])
    if share is None:
        return sums
    labelled = supervised.term_mask[:2].any(dim=0)
    extra = torch.stack(
        [losses.total.detach().double(), share[labelled].double().sum(), labelled.sum()]
    )
    return torch.cat([sums, extra])


def _advance(session: Session, observation: Observation) -> Switch | None:
    """Advance the schedule. Rank 0 decides, so every rank switches on the same step."""
    teaching = session.teaching
    if teaching is None:
        return None
    checkpoints, decide, rules = teaching.checkpoints, teaching.decide, teaching.rules
    while True:
        outcome = comm.from_rank_zero(
            advance(teaching.state, observation, checkpoints, decide, rules)
        )
        if not isinstance(outcome, MeasurementRequest):
            break
        measurement = session.measures[outcome.kind](
            session, outcome.checkpoints, **outcome.options
        )
        progress = observation.progress if measurement.progress is None else measurement.progress
        measurements = {**observation.measurements, outcome.kind: measurement.figures}
        observation = replace(observation, progress=progress, measurements=measurements)
    teaching.state, teaching.upcoming = outcome.state, outcome.upcoming
    if outcome.switch is None:
        return None
    teaching.log.append(outcome.switch)
    if not outcome.switch.changes:
        return None
    if session.on_switch.reset and observation.step > 0:
        session.backend.forget()
    return outcome.switch
