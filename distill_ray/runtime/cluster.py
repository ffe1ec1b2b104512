"""Start Ray on this machine or join a cluster, only when there is work for it."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.serving import PoolServing
from distill_ray.runtime.autoscaler import can_provide, has_autoscaler
from distill_ray.runtime.capacity import capacity_problems
from distill_ray.runtime.environment import TOKEN_FIX, WORKER_ENV, python_path, variables_set
from distill_ray.runtime.progress import Event, NullProgress, Progress
from distill_ray.runtime.ray_private import log_driver_output
from distill_ray.runtime.signals import deferred_interrupts

log = logging.getLogger(__name__)
CONNECT_S = 20.0
"""Timeout of a connection to a cluster."""
POLL_S = 3.0
"""Between two polls of the cluster's resources."""


def is_up() -> bool:
    """Whether this process is connected to Ray."""
    return bool(ray.is_initialized())


def ensure_ray(
    cfg: ClusterConfig, pools: Sequence[PoolServing] = (), progress: Progress | None = None
) -> None:
    """Start or join Ray, once.

    Raises:
        InputError: the cluster can't hold the workers and the actors of pools.
    """
    if not is_up():
        with deferred_interrupts():  # A half-connected Ray crashes the process.
            _init(cfg)
    check_capacity(cfg, pools, progress or NullProgress())


def _init(cfg: ClusterConfig) -> None:
    variables = {**WORKER_ENV, **python_path(), "DS_ACCELERATOR": worker_device(cfg)}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    log_driver_output(_log_only)
    if cfg.address is not None:
        _join(cfg.address, {"runtime_env": {"env_vars": variables}, **common})
        return
    # Inherited variables: with a runtime environment, Ray starts its first workers twice.
    with variables_set(variables):
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=int(cfg.object_store_gib * 2**30),
            **common,
        )


def _log_only(output: Mapping[str, Any]) -> None:
    """Log what Ray prints: pages of state for each node that dies. Our events report nodes."""
    log.debug("%s", "\n".join(output["lines"]))


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        _check_port(address)
        with _stderr_silenced():  # Ray's core prints each of twenty attempts to connect.
            ray.init(address=address, **options)
    except (ConnectionError, AuthenticationError) as error:
        reason = str(error).partition(". ")[0]  # What follows is advice for other cases.
        fix = "Start the cluster, or remove cluster.address to run on this machine. "
        fix += f"If the cluster requires a token: {TOKEN_FIX}"
        problem = Problem("cluster.address", f"can't connect to {address!r} ({reason}).", fix)
        raise InputError("cluster unreachable:", [problem]) from None


def _check_port(address: str) -> None:
    """Fail at once where nothing listens; Ray would silently retry for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
        except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name.
            raise ConnectionError(str(error)) from None


@contextmanager
def _stderr_silenced() -> Iterator[None]:
    """Discard what the process writes to standard error, C++ code included."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as devnull:
            os.dup2(devnull.fileno(), 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def silence_logger(library: str) -> None:
    """Keep a Ray library's log off the terminal: events report progress, and errors are raised.

    Call it after importing the library, which configures its logger. Ray's log files in its
    session folder don't change.
    """
    logging.getLogger(library).setLevel(logging.CRITICAL)


def check_capacity(cfg: ClusterConfig, pools: Sequence[PoolServing], progress: Progress) -> None:
    """Refuse a demand that this cluster can never meet.

    Raises:
        InputError: the cluster has too few CPUs or GPUs for all workers and actors of pools.
    """
    resources = ray.cluster_resources()
    problems = capacity_problems(cfg, resources.get("CPU", 0), resources.get("GPU", 0), pools)
    workers = [worker_resources(cfg)] * cfg.fewest_workers
    require_capacity(problems, [*workers, *pool_resources(pools)], None, progress)


def require_capacity(
    problems: Sequence[Problem],
    bundles: Sequence[Mapping[str, float]],
    labels: Mapping[str, str] | None,
    progress: Progress,
) -> None:
    """Refuse a demand, unless an autoscaler can start nodes for it.

    Args:
        problems: what the cluster lacks now.
        bundles: requested resources, each on one node.
        labels: labels that these nodes must have.
        progress: receives the resources that are missing while the autoscaler decides.

    Raises:
        InputError: there are problems, and no autoscaler solves them.
    """
    if not problems:
        return
    if not has_autoscaler():
        raise InputError("insufficient cluster resources:", problems)
    required: Counter[str] = Counter()
    for bundle in bundles:
        required.update(bundle)
    with waiting_for_nodes(progress, "ray", required):
        if not can_provide(bundles, labels):
            raise InputError("insufficient cluster resources, even after autoscaling:", problems)


@contextmanager
def waiting_for_nodes(
    progress: Progress, stage: str, required: Mapping[str, float]
) -> Iterator[None]:
    """Report for which resources nodes are missing, while the block runs.

    Args:
        progress: receives a note when resources become too few, and when they suffice again.
        stage: the stage that waits.
        required: all resources that the stage needs at a time.
    """
    stop, last_text = threading.Event(), ""

    def report() -> None:
        nonlocal last_text
        available = ray.cluster_resources()
        missing = [
            f"{count:g} {kind}s, {available.get(kind, 0.0):g} available"
            for kind, count in required.items()
            if count > available.get(kind, 0.0)
        ]
        text = f"waiting for nodes: {' and '.join(missing)}" if missing else ""
        if text != last_text:
            progress.emit(Event("note", stage, text or "all nodes are available"))
        last_text = text

    def watch() -> None:
        with suppress(Exception):  # Ray is going down.
            while not stop.wait(POLL_S):
                report()

    report()  # At once: nodes that are missing now may come within the first interval.
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def pool_resources(pools: Sequence[PoolServing]) -> list[dict[str, float]]:
    """Resources of each actor of teacher pools."""
    return [
        {"CPU": pool.cpus_per_actor} | ({"GPU": pool.gpus_per_actor} if pool.gpus_per_actor else {})
        for pool in pools
        for _ in range(pool.num_actors)
    ]


def worker_resources(cfg: ClusterConfig) -> dict[str, float]:
    """Resources of one worker, as Tune and Train name them."""
    resources = {"CPU": cfg.cpus_per_worker}
    return resources | ({"GPU": cfg.gpus_per_worker} if cfg.gpus_per_worker else {})


HOSTS = "distill-ray/hosts"
"""Label of a cluster's nodes: `student` where the GPUs are too small for a teacher."""


def teacher_nodes(cfg: ClusterConfig) -> dict[str, str] | None:
    """Label selector of nodes that can hold a teacher; None where every node can.

    It excludes a label, so that it works on clusters without labels too. A Ray of our own on this
    machine has no labels.
    """
    return None if cfg.address is None else {HOSTS: "!student"}


def worker_device(cfg: ClusterConfig) -> str:
    """The device of a worker: the GPU that the config gives it, else the CPU."""
    return "cuda" if cfg.gpus_per_worker else "cpu"


class EventQueue:
    """Carries workers' events to the driver."""

    def __init__(self) -> None:
        self._events: list[Event] = []

    def push(self, event: Event) -> None:
        """Add an event. The queue holds the last few thousand."""
        self._events = [*self._events[-5000:], event]

    def drain(self) -> list[Event]:
        """All events since the last call."""
        events, self._events = self._events, []
        return events


@contextmanager
def event_queue(progress: Progress, interval_s: float = 0.5) -> Iterator[Any]:
    """An `EventQueue` actor; its events go to `progress` while the block runs."""
    # On the driver's node: other nodes may go away.
    driver_node = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor = ray.remote(num_cpus=0, scheduling_strategy=driver_node)(EventQueue).remote()
    stop = threading.Event()

    def pump() -> None:
        while True:
            last = stop.wait(interval_s)
            try:
                events = ray.get(actor.drain.remote(), timeout=30)
            except ray.exceptions.GetTimeoutError:
                events = []  # Ray is busy, for example with a lost node.
            except Exception:
                return  # Ray is going down; progress doesn't decide how a run ends.
            for event in events:
                progress.emit(event)
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
    """Disconnect from Ray; a Ray that we started ends."""
    if is_up():
        ray.shutdown()
