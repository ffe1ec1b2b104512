"""One rank of a training: what a Ray Train worker runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypedDict

import ray
import ray.train
import ray.train.torch

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import Problem
from distill_ray.data.batches import MixedRows
from distill_ray.engine import checkpoint, comm
from distill_ray.engine.build import build_session
from distill_ray.engine.loop import Step, checkpoint_losses, distill, validation_of
from distill_ray.engine.session import Session
from distill_ray.engine.skipped_steps import TooManySkippedStepsError
from distill_ray.engine.validation import task_loss
from distill_ray.runtime.artifacts import Building
from distill_ray.runtime.progress import Event
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.curve import (
    CURVE,
    SWITCHES,
    Curve,
    StreamRead,
    SwitchEntry,
    SwitchLog,
)
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.pool import Pool, PoolRefusedError
from distill_ray.stages.serving.source import frozen_student_of, source_of
from distill_ray.stages.training.checkpoints import CheckpointPolicy, resume, save
from distill_ray.stages.training.quarantine import FOLDER, keeper, leave_problem, record_stop_reason


class TrainLoopConfig(TypedDict):
    """What every worker of a group is given."""

    orders: list[TrainingJob]
    mailbox: Any
    """The driver's event queue, an actor."""
    pools: Mapping[str, Pool]
    """Artifact path → the actors of its teacher."""
    stopped: Storage
    """Where a rank says why a job stopped."""
    state: Storage
    """Folder of the checkpoints."""
    cluster: ClusterConfig


def train_worker(payload: TrainLoopConfig) -> None:
    """One rank. All ranks go through the same orders and report at the same steps."""
    for order in payload["orders"]:
        # Decided once: a slow rank must not see what a fast one has just finished.
        if not comm.from_rank_zero(order.artifact.is_complete()):
            try:
                _fill(order, payload)
            except TooManySkippedStepsError as error:  # On every rank, at the same step.
                if comm.rank() == 0:
                    job, place = f"{order.stage} {order.spec.name}", order.artifact.uri
                    record_stop_reason(payload["stopped"], job, error, f"{place}/{FOLDER}")
                return
            except PoolRefusedError as error:  # On every rank too, before the first step.
                if comm.rank() == 0:
                    leave_problem(payload["stopped"], Problem("distill.serving", str(error)))
                return
        comm.barrier()


def _fill(order: TrainingJob, payload: TrainLoopConfig) -> None:
    started, box, pools = time.monotonic(), payload["mailbox"], payload["pools"]
    job, device = order.local_spec(), ray.train.torch.get_device()
    source = source_of(order, job, device, pools)
    session = build_session(job, device, source, frozen_student_of(order, device))
    session.skipped.quarantine = keeper(order.artifact.storage.sub(order.artifact.path))
    resumed = resume(session, order, payload["state"])
    saving = CheckpointPolicy.of(order, payload["cluster"])
    if comm.rank() == 0:
        for line in resumed:
            box.push.remote(Event("progress", order.stage, f"{order.spec.name}: {line}"))
    for step in distill(session):
        if (checkpoint_index := _checkpoint_index(order, step)) is not None:
            _export(session, order, f"checkpoints/{checkpoint_index}")
        if step.number < order.spec.steps and saving.due(step.number):
            save(session, order, step)
        if comm.rank() == 0:
            box.push.remote(_event(order, step, session.skipped.total))
    comm.barrier()
    if comm.rank() == 0:
        _finish(session, order, time.monotonic() - started)
        if order.artifact.path in pools:
            pools[order.artifact.path].end()  # The orders that follow don't need it.


def _checkpoint_index(order: TrainingJob, step: Step) -> int | None:
    ends = order.spec.checkpoint_steps
    return ends.index(step.number) if step.number in ends else None


def _export(session: Session, order: TrainingJob, path: str) -> None:
    storage = order.artifact.storage.sub(order.artifact.path)
    with storage.folder(path) as folder:
        checkpoint.export(session, folder)


def _event(order: TrainingJob, step: Step, num_skipped: int) -> Event:
    text = f"{order.spec.name}: loss {step.loss:.3f}"
    if num_skipped:
        text += f", {num_skipped} step{'s' * (num_skipped > 1)} left out"
    if step.switch is not None:
        switch = step.switch
        served = f"{switch.to_teacher} checkpoint {switch.to_checkpoint + 1}"
        text += f", from here {served} ({switch.reason})"
    return Event("progress", order.stage, text, completed=step.number, total=order.spec.steps)


def _finish(session: Session, order: TrainingJob, wall_s: float) -> None:
    """Rank 0 writes the curve and the manifest: the artifact is whole."""
    teaching = session.teaching
    losses = checkpoint_losses(session.history, order.spec.checkpoint_steps)
    source, streams = session.source, {}
    if isinstance(source, MixedRows):
        streams = {n: StreamRead(**read) for n, read in source.read(session.step).items()}
    curve = Curve(
        history=session.history,
        initial_loss=session.initial_loss,
        switches=list(teaching.switches) if teaching else [],
        schedule=teaching.state if teaching else None,
        tokens_by_teacher=session.tokens_by_teacher,
        skipped_steps=session.skipped.total,
        best=min(range(len(losses)), key=lambda i: losses[i]),
        streams=streams,
    )
    building = Building(order.artifact.folder)
    curve.write(building, CURVE)
    if teaching is not None:
        entries = [SwitchEntry.model_validate(row) for row in teaching.switch_log()]
        SwitchLog(entries=entries).write(building, SWITCHES)
    validation = validation_of(session.history[-1])
    tokens = session.step * order.spec.training.global_batch_size * order.spec.data.sequence_length
    counts = {"steps": session.step, "tokens": tokens, "validation_loss": task_loss(validation)}
    if session.step < order.spec.steps:
        counts["stopped_early_of"] = order.spec.steps
    order.artifact.commit({**counts, "skipped_steps": session.skipped.total}, wall_s)
