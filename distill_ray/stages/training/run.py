"""Jobs on Ray Train: several in a row in one group of workers, each resumable, each an artifact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
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
from distill_ray.stages.training.checkpoints import NUM_TO_KEEP, prune
from distill_ray.stages.training.quarantine import raise_reason
from distill_ray.stages.training.rendezvous import LoopbackTorchConfig
from distill_ray.stages.training.trainer import TorchTrainerWithoutIdleActors
from distill_ray.stages.training.worker import train_worker


def train(run: Run, training_jobs: Sequence[TrainingJob]) -> None:
    """Fill the artifacts of all jobs that aren't whole yet.

    Raises:
        ray.train.TrainingFailedError: workers failed more often than allowed.
        InputError: a job had too many steps in a row without a finite loss, or its teacher pool
            isn't the same teacher.
    """
    cluster = run.cfg.cluster
    run.ray()
    silence_logger("ray.train")
    # Of all jobs, also those that are done: an attempt that was cut off had the same ones.
    identity = fingerprint([job.artifact.path for job in training_jobs])
    state, name = run.storage.sub(".state"), f"train-{identity}"
    prune(state.sub(name))
    stopped = f".state/stopped-{identity}"
    run.storage.delete(stopped)
    resources = {k: cluster.num_workers * v for k, v in worker_resources(cluster).items()}
    preemptions = -1 if cluster.max_preemptions is None else cluster.max_preemptions
    with (
        event_queue(run.progress) as mailbox,
        teacher_pools(run, training_jobs, mailbox) as pools,
        waiting_for_nodes(run.progress, training_jobs[0].stage, resources),
    ):
        trainer = TorchTrainerWithoutIdleActors(
            train_worker,
            train_loop_config={
                "training_jobs": list(training_jobs),
                "mailbox": mailbox,
                "pools": pools,
                "stopped": run.storage.sub(stopped),
                "state": state.sub(name),
                "cluster": cluster,
            },
            scaling_config=_scaling(cluster, training_jobs),
            run_config=ray.train.RunConfig(
                # Equal jobs, equal name: a run that was cut off goes on from its checkpoints.
                name=name,
                **state.place,
                failure_config=ray.train.FailureConfig(
                    max_failures=cluster.max_failures,
                    max_preemption_failures=preemptions,
                ),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_TO_KEEP),
            ),
            torch_config=LoopbackTorchConfig(timeout_s=int(cluster.worker_timeout_s)),
            on_cluster=cluster.address is not None,
        )
        before = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit()
        finally:  # Ctrl-C means again what it meant before Ray Train took it.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, before)
    raise_reason(run.storage.sub(stopped))
    state.delete(name)


def _scaling(cfg: ClusterConfig, training_jobs: Sequence[TrainingJob]) -> Any:
    """Make the workers' number and size; where teachers live elsewhere, on any nodes."""
    apart = any(isinstance(job.serving, PoolServing | CachedServing) for job in training_jobs)
    elastic = cfg.fewest_workers < cfg.num_workers
    return ray.train.ScalingConfig(
        label_selector=None if apart else teacher_nodes(cfg),
        num_workers=(cfg.fewest_workers, cfg.num_workers) if elastic else cfg.num_workers,
        elastic_resize_monitor_interval_s=cfg.resize_interval_s,
        use_gpu=cfg.gpus_per_worker > 0,
        resources_per_worker=worker_resources(cfg),
    )
