"""Jobs on Ray Train: several in a row in one group of workers, each resumable, each an artifact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
import ray.train.torch

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.serving import CachedServing, PoolServing
from distill_ray.runtime.cluster import (
    event_queue,
    silence_logger,
    teacher_nodes,
    waiting_for_nodes,
    worker_resources,
)
from distill_ray.runtime.run import Run
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.pool import teacher_pools
from distill_ray.stages.training.checkpoints import kept, prepare
from distill_ray.stages.training.quarantine import raise_reason
from distill_ray.stages.training.rendezvous import LoopbackTorchConfig
from distill_ray.stages.training.trainer import TorchTrainerWithoutIdleActors
from distill_ray.stages.training.worker import train_worker


def train(run: Run, orders: Sequence[TrainingJob]) -> None:
    """Fill the artifacts of all orders that aren't whole yet.

    Raises:
        ray.train.TrainingFailedError: workers failed more often than allowed.
        InputError: a job had too many steps in a row without a finite loss, or its teacher pool
            isn't the same teacher.
    """
    run.ray()
    silence_logger("ray.train")
    # Of all orders, also those that are done: an attempt that was cut off had the same ones.
    identity = fingerprint([order.artifact.path for order in orders])
    state, name = run.storage.sub(".state"), f"train-{identity}"
    prepare(state.sub(name))
    stopped = f".state/stopped-{identity}"
    run.storage.delete(stopped)
    resources = {
        k: run.cfg.cluster.num_workers * v for k, v in worker_resources(run.cfg.cluster).items()
    }
    stage = orders[0].stage
    with (
        event_queue(run.progress) as box,
        teacher_pools(run, orders, box) as started,
        waiting_for_nodes(run.progress, stage, resources),
    ):
        trainer = TorchTrainerWithoutIdleActors(
            train_worker,
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
            torch_config=LoopbackTorchConfig(timeout_s=int(run.cfg.cluster.worker_timeout_s)),
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


def _scaling(cfg: ClusterConfig, orders: Sequence[TrainingJob]) -> Any:
    elsewhere = any(isinstance(o.serving, PoolServing | CachedServing) for o in orders)
    elastic = cfg.fewest_workers < cfg.num_workers
    return ray.train.ScalingConfig(
        label_selector=None if elsewhere else teacher_nodes(cfg),
        num_workers=(cfg.fewest_workers, cfg.num_workers) if elastic else cfg.num_workers,
        elastic_resize_monitor_interval_s=cfg.resize_interval_s,
        use_gpu=cfg.gpus_per_worker > 0,
        resources_per_worker=worker_resources(cfg),
    )


def _failures(cfg: ClusterConfig) -> Any:
    preemptions = -1 if cfg.max_preemptions is None else cfg.max_preemptions
    return ray.train.FailureConfig(
        max_failures=cfg.max_failures, max_preemption_failures=preemptions
    )
