"""Jobs on Ray Train: several in a row in one group of workers, each resumable, each an artifact."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import ray
import ray.train
import ray.train.torch

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import Problem
from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.serving import CachedServing, PoolServing
from distill_ray.data.batches import MixedRows
from distill_ray.engine import checkpoint, comm
from distill_ray.engine.bad_steps import TooManyBadStepsError
from distill_ray.engine.held_out import task_loss
from distill_ray.engine.job import Job, build_session
from distill_ray.engine.loop import Step, checkpoint_losses, distill, validation_of
from distill_ray.engine.session import Session
from distill_ray.runtime.cluster import (
    awaited,
    hush,
    mailbox,
    teacher_nodes,
    worker_resources,
)
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.runtime.storage import cache_folder
from distill_ray.stages.anchor import anchor_of
from distill_ray.stages.local_files import CURVE, SWITCHES, local_ref
from distill_ray.stages.order import Order
from distill_ray.stages.rendezvous import MeetingConfig
from distill_ray.stages.saving import Saving, kept, prepare, resume, save
from distill_ray.stages.serving import source_of
from distill_ray.stages.set_aside import (
    FOLDER,
    keeper,
    leave_problem,
    leave_reason,
    raise_reason,
)
from distill_ray.stages.teacher_pool import PoolRefusedError, teacher_pools
from distill_ray.stages.trainer import LeanTrainer


def train(run: Run, orders: Sequence[Order]) -> None:
    """Fill the artifacts of all orders that aren't whole yet.

    Raises:
        ray.train.TrainingFailedError: workers failed more often than allowed.
        InputError: a job had too many steps in a row without a finite loss, or its teacher pool
            isn't the same teacher.
    """
    run.ray()
    hush("ray.train")
    # Of all orders, also those that are done: an attempt that was cut off had the same ones.
    identity = fingerprint([order.artifact.path for order in orders])
    state, name = run.storage.sub(".state"), f"train-{identity}"
    prepare(state.sub(name))
    stopped = f".state/stopped-{identity}"
    run.storage.delete(stopped)
    wanted = {
        k: run.cfg.cluster.num_workers * v for k, v in worker_resources(run.cfg.cluster).items()
    }
    stage = orders[0].stage
    with (
        mailbox(run.progress) as box,
        teacher_pools(run, orders, box) as started,
        awaited(run.progress, stage, wanted),
    ):
        trainer = LeanTrainer(
            _worker,
            train_loop_config={
                "orders": list(orders),
                "mailbox": box,
                "pools": started,
                "stopped": run.storage.sub(stopped),
                "state": state.sub(name),
                "cluster": run.cfg.cluster,
            },
            scaling_config=_scaling(run.cfg.cluster, orders),
            run_config=ray.train.RunConfig(
                # Equal orders, equal name: a run that was cut off goes on from its checkpoints.
                name=name,
                **state.place,
                failure_config=_failures(run.cfg.cluster),
                checkpoint_config=kept(),
            ),
            torch_config=MeetingConfig(timeout_s=int(run.cfg.cluster.worker_timeout_s)),
            on_cluster=run.cfg.cluster.address is not None,
        )
        with _interruptible():
            trainer.fit()
    raise_reason(run.storage.sub(stopped))
    state.delete(name)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C means afterwards what it meant before: Ray Train's way of taking it stays behind."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def _scaling(cfg: ClusterConfig, orders: Sequence[Order]) -> Any:
    elsewhere = any(isinstance(o.serving, PoolServing | CachedServing) for o in orders)
    elastic = cfg.fewest_workers < cfg.num_workers
    return ray.train.ScalingConfig(
        label_selector=None if elsewhere else teacher_nodes(cfg),
        num_workers=(cfg.fewest_workers, cfg.num_workers) if elastic else cfg.num_workers,
        elastic_resize_monitor_interval_s=cfg.resize_every_s,
        use_gpu=cfg.gpus_per_worker > 0,
        resources_per_worker=worker_resources(cfg),
    )


def _failures(cfg: ClusterConfig) -> Any:
    preemptions = -1 if cfg.max_preemptions is None else cfg.max_preemptions
    return ray.train.FailureConfig(
        max_failures=cfg.max_failures, max_preemption_failures=preemptions
    )


def _worker(payload: Mapping[str, Any]) -> None:
    """One rank. All ranks go through the same orders and report at the same steps."""
    for order in payload["orders"]:
        # Decided once: a slow rank must not see what a fast one has just finished.
        if not comm.from_rank_zero(order.artifact.done()):
            try:
                _fill(order, payload)
            except TooManyBadStepsError as error:  # On every rank, at the same step.
                if comm.rank() == 0:
                    job, place = f"{order.stage} {order.job.name}", order.artifact.uri
                    leave_reason(payload["stopped"], job, error, f"{place}/{FOLDER}")
                return
            except PoolRefusedError as error:  # On every rank too, before the first step.
                if comm.rank() == 0:
                    leave_problem(payload["stopped"], Problem("distill.serving", str(error)))
                return
        comm.barrier()


def _fill(order: Order, payload: Mapping[str, Any]) -> None:
    started, box, pools = time.monotonic(), payload["mailbox"], payload["pools"]
    job, device = local(order), ray.train.torch.get_device()
    source = source_of(order, job, device, pools)
    session = build_session(job, device, source, anchor_of(order, device))
    session.bad.keep = keeper(order.artifact.storage.sub(order.artifact.path))
    said = resume(session, order, payload["state"])
    saving = Saving.of(order, payload["cluster"])
    if comm.rank() == 0:
        for line in said:
            box.push.remote(Event("progress", order.stage, f"{order.job.name}: {line}"))
    for step in distill(session):
        if (rung := _rung(order, step)) is not None:
            _export(session, order, f"checkpoints/{rung}")
        if step.number < order.job.steps and saving.due(step.number):
            save(session, order, step)
        if comm.rank() == 0:
            box.push.remote(_event(order, step, session.bad.total))
    comm.barrier()
    if comm.rank() == 0:
        _finish(session, order, time.monotonic() - started)
        if order.artifact.path in pools:
            pools[order.artifact.path].end()  # The orders that follow don't need it.


def _rung(order: Order, step: Step) -> int | None:
    ends = order.job.rung_ends
    return ends.index(step.number) if step.number in ends else None


def local(order: Order) -> Job:
    """The job with everything it reads on this machine."""
    data = replace(order.job.data, folder=order.shards.local(), cache=cache_folder() / "rows")
    if isinstance(order.serving, PoolServing):  # Its actors read the teachers.
        return replace(order.job, data=data, student=local_ref(order.job.student))
    return replace(order.job.with_refs(local_ref), data=data)


def _export(session: Session, order: Order, path: str) -> None:
    storage = order.artifact.storage.sub(order.artifact.path)
    with storage.folder(path) as folder:
        checkpoint.export(session, folder)


def _event(order: Order, step: Step, left_out: int) -> Event:
    text = f"{order.job.name}: loss {step.loss:.3f}"
    if left_out:
        text += f", {left_out} step{'s' * (left_out > 1)} left out"
    if step.switch is not None:
        switch = step.switch
        text += f", from here {switch.to_teacher} checkpoint {switch.to_rung + 1} ({switch.reason})"
    return Event("progress", order.stage, text, done=step.number, total=order.job.steps)


def _finish(session: Session, order: Order, wall_s: float) -> None:
    """Rank 0 writes the curve and the manifest: the artifact is whole."""
    teaching = session.teaching
    losses = checkpoint_losses(session.history, order.job.rung_ends)
    curve: dict[str, Any] = {
        "history": session.history,
        "initial_loss": session.initial_loss,
        "switches": [asdict(s) for s in teaching.switches] if teaching else [],
        "schedule": teaching.state.to_dict() if teaching else None,
        "taught": session.taught,
        "bad_steps": session.bad.total,
        "best": min(range(len(losses)), key=lambda i: losses[i]),
    }
    if isinstance(session.source, MixedRows):
        curve["streams"] = session.source.read(session.step)
    storage = order.artifact.storage.sub(order.artifact.path)
    storage.write_bytes(CURVE, json.dumps(curve).encode())
    if teaching is not None:
        storage.write_bytes(SWITCHES, json.dumps(teaching.switch_log(), indent=1).encode())
    validation = validation_of(session.history[-1])
    tokens = session.step * order.job.training.batch_rows * order.job.data.sequence_length
    counts = {"steps": session.step, "tokens": tokens, "validation_loss": task_loss(validation)}
    if session.step < order.job.steps:
        counts["stopped_early_of"] = order.job.steps
    order.artifact.commit({**counts, "bad_steps": session.bad.total}, wall_s)
