"""Our engine's arms: the training loop's own step, and the loss's own function."""

from __future__ import annotations

import torch

from distill_ray.bench.arms.inputs import Heads, Pair, batch, heads, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import LossWork, StepWork
from distill_ray.core.head import Head
from distill_ray.core.head_loss import LossTargets, head_loss
from distill_ray.core.schedule import ScheduleState, TeacherCheckpoints
from distill_ray.core.schedules import fixed
from distill_ray.data.batches import Batch
from distill_ray.engine.backends.optim import OptimSpec
from distill_ray.engine.backends.plain import PlainBackend
from distill_ray.engine.backends.student import Student
from distill_ray.engine.loop import train_step
from distill_ray.engine.objective import Objective
from distill_ray.engine.session import Session, Teaching
from distill_ray.engine.teachers.base import Colocated
from distill_ray.models.teachers import TeacherBank


class Rows:
    """The batch source of the benchmark's rows."""

    def __init__(self, work: StepWork, vocabulary: int) -> None:
        self._work, self._vocabulary = work, vocabulary

    def batch(self, step: int, micro: int) -> Batch:
        """Return micro-batch `micro` of a step."""
        return batch(self._work, step, self._vocabulary)


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Take distillation steps of the loop, on the plain backend."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    session = session_of(pair, work, turns.device, turns.total)
    for _ in turns:
        turns.done([one_step(session)])


def one_step(session: Session) -> float:
    """Take one step of the loop; return its loss."""
    loss, *_ = train_step(session)
    session.step += 1
    return loss


def session_of(pair: Pair, work: StepWork, device: torch.device, steps: int) -> Session:
    """A session around loaded models, with a constant learning rate."""
    spec = OptimSpec(work.learning_rate, steps, 0.0, 1.0, work.weight_decay, work.clip)
    student = Student(pair.student, pair.vocabulary)
    mixed = work.precision == "bfloat16"
    return Session(
        backend=PlainBackend(student, spec, device, autocast=mixed),
        source=Rows(work, pair.vocabulary),
        num_micro=1,
        objective=Objective(alpha=1.0),
        optim=spec,
        teaching=Teaching(
            Colocated(TeacherBank.of(pair.teacher, pair.vocabulary)),
            TeacherCheckpoints({"teacher": 1}, steps),
            fixed,
            ScheduleState("teacher", 0, begun=True),
        ),
    )


def loss(turns: ArmClient, *, work: LossWork) -> None:
    """Compute the loss alone, straight from hidden states; gradients are checked off the clock."""
    pair_of_heads = heads(work, turns.device)
    for _ in turns:
        value = one_loss(pair_of_heads)
        turns.stop_clock()
        turns.done([value, *pair_of_heads.gradient_norms()])
        pair_of_heads.clear()


def one_loss(pair_of_heads: Heads) -> float:
    """Compute the mean KL of all tokens and its gradients; return the mean."""
    count, vocabulary = len(pair_of_heads.hidden), len(pair_of_heads.weight)
    device = pair_of_heads.hidden.device
    zeros = torch.zeros(count, device=device)
    target = LossTargets(
        labels=torch.zeros(count, dtype=torch.int64, device=device),
        label_weight=zeros,
        reference=Head(
            (pair_of_heads.teacher_hidden,), (pair_of_heads.teacher_weight,), vocabulary
        ),
        reference_weight=zeros + 1 / count,
    )
    value = head_loss(
        Head((pair_of_heads.hidden,), (pair_of_heads.weight,), vocabulary), target
    ).total
    value.backward()  # type: ignore[no-untyped-call]
    return value.item()
