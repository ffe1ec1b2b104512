"""Ray: started on this machine or joined, only when there is work for it."""

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
from ray._private import worker
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill_ray.config.cluster import ClusterConfig
from distill_ray.config.errors import InputError, Problem
from distill_ray.config.serving import PoolServing
from distill_ray.runtime.autoscaler import can_provide, has_autoscaler
from distill_ray.runtime.capacity import capacity_problems
from distill_ray.runtime.environment import TOKEN_FIX, WORKER_ENV, python_path, variables_set
from distill_ray.runtime.progress import Event, NullProgress, Progress
from distill_ray.runtime.signals import deferred_interrupts

log = logging.getLogger(__name__)
KNOCK_S = 20.0
"""For a cluster to answer that there is one."""
AWAIT_S = 3.0
"""Between two looks at what the cluster has."""


def is_up() -> bool:
    """Whether this process is connected to Ray."""
    return bool(ray.is_initialized())


def ensure_ray(
    cfg: ClusterConfig, pools: Sequence[PoolServing] = (), progress: Progress | None = None
) -> None:
    """Start or join Ray, once.

    Raises:
        InputError: the cluster can't hold the workers, and the actors of pools, that are asked for.
    """
    if not is_up():
        with deferred_interrupts():  # A half-connected Ray crashes the process.
            _init(cfg)
    check_capacity(cfg, pools, progress or NullProgress())


def _init(cfg: ClusterConfig) -> None:
    variables = {**WORKER_ENV, **python_path(), "DS_ACCELERATOR": worker_device(cfg)}
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    worker.print_to_stdstream = _log_only
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


def _log_only(said: Mapping[str, Any], ignore_prefix: bool) -> None:
    """For each node that dies Ray prints pages of its state; our events tell of nodes."""
    log.debug("%s", "\n".join(said["lines"]))


def _join(address: str, options: dict[str, Any]) -> None:
    try:
        _check_port(address)
        with _core_silent():
            ray.init(address=address, **options)
    except (ConnectionError, AuthenticationError) as error:
        why = str(error).partition(". ")[0]  # What follows is advice for other cases.
        fix = "Start it, or leave cluster.address out to run on this machine. "
        fix += f"Where it asks for a token: {TOKEN_FIX}"
        problem = Problem("cluster.address", f"no Ray at {address!r} for us ({why}).", fix)
        raise InputError("the cluster can't be reached:", [problem]) from None


def _check_port(address: str) -> None:
    """Fail at once where nothing listens; Ray would try for minutes, without a word."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
        except (OSError, UnicodeError) as error:  # Nothing there, or not a name of a machine.
            raise ConnectionError(str(error)) from None


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


def silence_logger(library: str) -> None:
    """Keep a Ray library's log off the terminal: our events tell the progress, errors are raised.

    Call it after the library's import, which configures its logger. Ray's own files in its session
    folder stay as they are.
    """
    logging.getLogger(library).setLevel(logging.CRITICAL)


def check_capacity(cfg: ClusterConfig, pools: Sequence[PoolServing], progress: Progress) -> None:
    """Refuse a demand that this cluster can't meet, and will never be able to.

    Raises:
        InputError: it has fewer CPUs or GPUs than all workers and actors of pools need together.
    """
    there = ray.cluster_resources()
    problems = capacity_problems(cfg, there.get("CPU", 0), there.get("GPU", 0), pools)
    workers = [worker_resources(cfg)] * cfg.fewest_workers
    require_capacity(problems, [*workers, *pool_resources(pools)], None, progress)


def require_capacity(
    problems: Sequence[Problem],
    bundles: Sequence[Mapping[str, float]],
    labels: Mapping[str, str] | None,
    progress: Progress,
) -> None:
    """Refuse a demand, unless an autoscaler starts nodes for it.

    Args:
        problems: what the cluster lacks as it is.
        bundles: resources that are asked for, each on one node.
        labels: that these nodes must have.
        progress: is told what nodes are awaited, while the autoscaler decides.

    Raises:
        InputError: there are problems, and they will stay.
    """
    if not problems:
        return
    if not has_autoscaler():
        raise InputError("the cluster is too small:", problems)
    wanted: Counter[str] = Counter()
    for bundle in bundles:
        wanted.update(bundle)
    with waiting_for_nodes(progress, "ray", wanted):
        if not can_provide(bundles, labels):
            raise InputError("the cluster is too small, and may not grow so far:", problems)


@contextmanager
def waiting_for_nodes(
    progress: Progress, stage: str, wanted: Mapping[str, float]
) -> Iterator[None]:
    """While the block runs, progress says for which resources nodes are awaited.

    Args:
        progress: is told when something begins to lack, and when all is there.
        stage: that waits.
        wanted: all that it asks for at a time.
    """
    stop, said = threading.Event(), ""

    def look() -> None:
        nonlocal said
        text = _lacking(wanted, ray.cluster_resources())
        if text != said:
            progress.emit(Event("note", stage, text or "the nodes are there"))
        said = text

    def watch() -> None:
        with suppress(Exception):  # Ray is going down.
            while not stop.wait(AWAIT_S):
                look()

    look()  # At once: what lacks now may be there before the first interval is over.
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=30)


def _lacking(wanted: Mapping[str, float], there: Mapping[str, float]) -> str:
    """What nodes are awaited for; nothing where all is there."""
    parts = [
        f"{count:g} {kind}s, {there.get(kind, 0.0):g} there"
        for kind, count in wanted.items()
        if count > there.get(kind, 0.0)
    ]
    return f"waiting for nodes: {' and '.join(parts)}" if parts else ""


def pool_resources(pools: Sequence[PoolServing]) -> list[dict[str, float]]:
    """Resources of each actor of teacher pools."""
    return [
        {"CPU": pool.cpus_per_actor} | ({"GPU": pool.gpus_per_actor} if pool.gpus_per_actor else {})
        for pool in pools
        for _ in range(pool.actors)
    ]


def worker_resources(cfg: ClusterConfig) -> dict[str, float]:
    """Resources of one worker, as Tune and Train name them."""
    resources = {"CPU": cfg.cpus_per_worker}
    return resources | ({"GPU": cfg.gpus_per_worker} if cfg.gpus_per_worker else {})


HOSTS = "distill-ray/hosts"
"""Label of a cluster's nodes: `student` where the GPUs are too small for a teacher."""


def teacher_nodes(cfg: ClusterConfig) -> dict[str, str] | None:
    """Which nodes work with a teacher in it may be on; None where all will do.

    It is said by exclusion, so that it holds on clusters without labels too. This machine has none.
    """
    return None if cfg.address is None else {HOSTS: "!student"}


def worker_device(cfg: ClusterConfig) -> str:
    """Where a worker computes: on the accelerator that the config gives it, else on the CPU."""
    return "cuda" if cfg.gpus_per_worker else "cpu"


class EventQueue:
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
def event_queue(progress: Progress, interval_s: float = 0.5) -> Iterator[Any]:
    """A Mailbox whose events are shown while the block runs."""
    # On the driver's node: another may be taken away in the middle of it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0, scheduling_strategy=here)(EventQueue).remote()
    stop = threading.Event()

    def pump() -> None:
        while True:
            last = stop.wait(interval_s)
            try:
                events = ray.get(actor.drain.remote(), timeout=30)
            except ray.exceptions.GetTimeoutError:
                events = []  # Ray has more important things to do, such as losing a node.
            except Exception:
                return  # Ray is going down; progress has no say in how a run ends.
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
    """Leave Ray; one that we started ends."""
    if is_up():
        ray.shutdown()
