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
from distill_ray.stages.training.quarantine import (
    FOLDER,
    leave_problem,
    quarantine_writer,
    record_stop_reason,
)


class TrainLoopConfig(TypedDict):
    """What every worker of a group is given."""

    training_jobs: list[TrainingJob]
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
    """Train as one rank. All ranks go through the same jobs and report at the same steps."""
    for training_job in payload["training_jobs"]:
        # Decided once: a slow rank must not see what a fast one has just finished.
        if not comm.from_rank_zero(training_job.artifact.is_complete()):
            try:
                _train(training_job, payload)
            except TooManySkippedStepsError as error:  # On every rank, at the same step.
                if comm.rank() == 0:
                    name = f"{training_job.stage} {training_job.spec.name}"
                    place = f"{training_job.artifact.uri}/{FOLDER}"
                    record_stop_reason(payload["stopped"], name, error, place)
                return
            except PoolRefusedError as error:  # On every rank too, before the first step.
                if comm.rank() == 0:
                    leave_problem(payload["stopped"], Problem("distill.serving", str(error)))
                return
        comm.barrier()


def _train(training_job: TrainingJob, payload: TrainLoopConfig) -> None:
    """Fill one job's artifact."""
    started, mailbox, pools = time.monotonic(), payload["mailbox"], payload["pools"]
    spec, device, stage = training_job.spec, ray.train.torch.get_device(), training_job.stage
    artifact_folder = training_job.artifact.storage.sub(training_job.artifact.path)
    local_spec = training_job.local_spec()
    source = source_of(training_job, local_spec, device, pools)
    frozen_student = frozen_student_of(training_job, device)
    session = build_session(local_spec, device, source, frozen_student)
    session.skipped.quarantine = quarantine_writer(artifact_folder)
    resumed = resume(session, training_job, payload["state"])
    policy = CheckpointPolicy.of(training_job, payload["cluster"])
    if comm.rank() == 0:
        for line in resumed:
            mailbox.push.remote(Event("progress", stage, f"{spec.name}: {line}"))
    for step in distill(session):
        if step.number in spec.checkpoint_steps:
            checkpoint_index = spec.checkpoint_steps.index(step.number)
            training_job.artifact.require_lease()  # Else another run may have begun to fill it.
            with artifact_folder.folder(f"checkpoints/{checkpoint_index}") as folder:
                checkpoint.export(session, folder)
        if step.number < spec.steps and policy.should_save(step.number):
            save(session, training_job, step)
        if comm.rank() == 0:
            text = f"{spec.name}: {_summary(step, session.skipped.total)}"
            event = Event("progress", stage, text, completed=step.number, total=spec.steps)
            mailbox.push.remote(event)
    comm.barrier()
    if comm.rank() == 0:
        _finish(session, training_job, time.monotonic() - started)
        if training_job.artifact.path in pools:
            pools[training_job.artifact.path].end()  # The jobs that follow don't need it.


def _summary(step: Step, num_skipped: int) -> str:
    """A step's loss, and what else happened at it."""
    text = f"loss {step.loss:.3f}"
    if num_skipped:
        text += f", {num_skipped} step{'s' * (num_skipped > 1)} left out"
    if (switch := step.switch) is not None:
        to_checkpoint = f"{switch.to_teacher} checkpoint {switch.to_checkpoint + 1}"
        text += f", from here {to_checkpoint} ({switch.reason})"
    return text


def _finish(session: Session, training_job: TrainingJob, wall_s: float) -> None:
    """Rank 0 writes the curve and the manifest: the artifact is whole."""
    teaching, spec = session.teaching, training_job.spec
    losses = checkpoint_losses(session.history, spec.checkpoint_steps)
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
    building = Building(training_job.artifact.folder)
    curve.write(building, CURVE)
    if teaching is not None:
        entries = [SwitchEntry.model_validate(row) for row in teaching.switch_log()]
        SwitchLog(entries=entries).write(building, SWITCHES)
    validation = validation_of(session.history[-1])
    tokens = session.step * spec.training.global_batch_size * spec.data.sequence_length
    counts = {"steps": session.step, "tokens": tokens, "validation_loss": task_loss(validation)}
    if session.step < spec.steps:
        counts["stopped_early_of"] = spec.steps
    training_job.artifact.commit({**counts, "skipped_steps": session.skipped.total}, wall_s)
