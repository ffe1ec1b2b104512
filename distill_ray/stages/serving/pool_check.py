"""Checks before a pool's first answer is used: its packages, and its log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from distill_ray.core.head import Head
from distill_ray.core.head_loss import OneTeacher
from distill_ray.engine.job import TrainingSpec
from distill_ray.engine.teachers.messages import Answer, Request, head_for
from distill_ray.engine.teachers.parity import largest_gap, tolerance
from distill_ray.stages.serving.pool import Pool
from distill_ray.stages.serving.pool_actor import LazyTeacherBank, versions


def say_versions(pool: Pool) -> None:
    """Tell where an actor's packages aren't the worker's."""
    own = versions()
    for number, description in enumerate(pool.describe()):
        for package, version in own.items():
            if description[package] != version:
                what = f"has {package} {description[package]}, the worker {version}"
                pool.say(f"actor {number} of the teacher pool {what}")


def difference(
    pool: Pool,
    training_spec: TrainingSpec,
    request: Request,
    read: Callable[[Answer], OneTeacher],
    device: torch.device,
) -> str | None:
    """Why an actor's answer isn't that of the same teacher in this process, which loads it here.

    Args:
        pool: the actors.
        training_spec: what is trained.
        request: on which predictions to compare.
        read: makes a reference of an answer.
        device: this process's.

    Returns:
        What differs by more than rounding; None where nothing does.
    """
    calls = [pool.call(i, "targets", request) for i in range(len(pool.actors))]
    local = _own_head(training_spec, request, device)
    labels = torch.tensor(request.labels, dtype=torch.int64, device=device)
    for call in calls:
        remote = read(pool.wait(call))
        gap = largest_gap(local, remote, labels, temperature=request.temperature)
        allowed = tolerance(training_spec.training.precision, remote)
        if gap > allowed:
            node = pool.describe()[call.actor]
            about = f"{node['device']}, torch {node['torch']}, transformers {node['transformers']}"
            return (
                f"teacher {request.teacher!r}, checkpoint {request.checkpoint_index + 1}: actor "
                f"{call.actor} of the teacher pool ({about}) gives other log-probabilities than "
                f"the same teacher in a worker, up to {gap:.2g} nats apart; rounding explains "
                f"{allowed:.2g}. Its files may have changed, or the machines' packages differ. "
                "Make them alike, or set distill.serving.num_parity_rows to 0 to train on what "
                "the pool gives."
            )
    return None


def _own_head(training_spec: TrainingSpec, request: Request, device: torch.device) -> Head:
    """The exact answer, computed here; the teacher leaves the memory on return."""
    training = training_spec.training.model_copy(update={"torch_compile": False})
    teachers = LazyTeacherBank(replace(training_spec, training=training), device)
    return head_for(teachers.bank(request.teacher, request.checkpoint_index), request, device)
