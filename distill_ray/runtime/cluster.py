"""Ray: started on this machine or joined, only when there is work for it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.serving import PoolServing
from distill_ray.runtime.capacity import capacity_problems
from distill_ray.runtime.environment import TOKEN_FIX, WORKER_ENV, python_path, variables_set
from distill_ray.runtime.progress import Event, Progress


def is_up() -> bool:
    """Whether this process is connected to Ray."""
    return bool(ray.is_initialized())


def ensure_ray(cfg: ClusterConfig, pools: Sequence[PoolServing] = ()) -> None:
    """Start or join Ray, once.

    Raises:
        InputError: the cluster can't hold the workers, and the actors of pools, that are asked for.
    """
    if not is_up():
        _init(cfg)
    check_capacity(cfg, ray.cluster_resources(), pools)


def _init(cfg: ClusterConfig) -> None:
    variables = {**WORKER_ENV, **python_path(), "DS_ACCELERATOR": worker_device(cfg)}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cfg.address is not None:
        _join(cfg.address, {"runtime_env": {"env_vars": variables}, **common})
        return
    # Inherited, not a runtime environment: for one of those, Ray starts its first workers twice.
    with variables_set(variables):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=int(cfg.object_store_gib * 2**30),
            **common,
        )


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        with _core_silent():
            ray.init(address=address, **options)
    except (ConnectionError, AuthenticationError) as error:
        why = str(error).partition(". ")[0]  # What follows is advice for other cases.
        fix = "Start it, or leave cluster.address out to run on this machine. "
        fix += f"Where it asks for a token: {TOKEN_FIX}"
        problem = Problem("cluster.address", f"no Ray at {address!r} for us ({why}).", fix)
        raise InputError("the cluster can't be reached:", [problem]) from None


@contextmanager
def _core_silent() -> Iterator[None]:
    """Ray's core tells each of twenty attempts to connect on standard error; we tell the end."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def hush(library: str) -> None:
    """Keep a Ray library's log off the terminal: our events tell the progress, errors are raised.

    Call it after the library's import, which configures its logger. Ray's own files in its session
    folder stay as they are.
    """
    logging.getLogger(library).setLevel(logging.CRITICAL)


def check_capacity(
    cfg: ClusterConfig, resources: dict[str, float], pools: Sequence[PoolServing] = ()
) -> None:
    """Refuse a demand that this cluster can't meet.

    Raises:
        InputError: it has fewer CPUs or GPUs than all workers and actors of pools need together.
    """
    problems = capacity_problems(cfg, resources.get("CPU", 0), resources.get("GPU", 0), pools)
    if problems:
        raise InputError("the cluster is too small:", problems)


def worker_resources(cfg: ClusterConfig) -> dict[str, float]:
    """Resources of one worker, as Tune and Train name them."""
    resources = {"CPU": cfg.cpus_per_worker}
    return resources | ({"GPU": cfg.gpus_per_worker} if cfg.gpus_per_worker else {})


def worker_device(cfg: ClusterConfig) -> str:
    """Where a worker computes: on the accelerator that the config gives it, else on the CPU."""
    return "cuda" if cfg.gpus_per_worker else "cpu"


class Mailbox:
    """Carries workers' events to the driver."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def push(self, event: Event) -> None:
        """Leave an event; the last few thousand are kept."""
        self._events = [*self._events[-5000:], event]

    def drain(self) -> list[Event]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events


@contextmanager
def mailbox(progress: Progress, interval_s: float = 0.5) -> Iterator[Any]:
    """A Mailbox whose events are shown while the block runs."""
    actor = ray.remote(num_cpus=0)(Mailbox).remote()
    stop = threading.Event()

    def pump() -> None:
        while True:
            last = stop.wait(interval_s)
            try:
                for event in ray.get(actor.drain.remote(), timeout=30):
                    progress.emit(event)
            except Exception:
                return  # Ray is going down; progress has no say in how a run ends.
            if last:
                return

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    try:
        yield actor
    finally:
        stop.set()
        thread.join(timeout=30)
        ray.kill(actor)


def shutdown() -> None:
    """Leave Ray; one that we started ends."""
    if is_up():
        ray.shutdown()
