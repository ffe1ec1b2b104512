"""Check that all nodes share one storage: write a file, and look for it on each node."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.manifest import SHARED_FIX
from distill_ray.runtime.storage import Storage

WAIT_S = 5.0
"""How long a network file system may take to show a file to another node."""
ANSWER_S = 120.0


def check_shared(storage: Storage, known: set[str]) -> None:
    """Refuse a local folder that some node with resources doesn't see.

    Args:
        storage: the run's storage.
        known: ids of nodes that see it; nodes that pass are added.

    Raises:
        InputError: names the nodes that don't.
    """
    if not storage.local:
        return
    checked = {ray.get_runtime_context().get_node_id(), *known}
    address_by_node = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and {"CPU", "GPU"} & {*node["Resources"]} and node["NodeID"] not in checked
    }
    if not address_by_node:
        return
    marker = f".seen-{uuid.uuid4().hex}"
    storage.write_bytes(marker, b"")
    try:
        path = str(Path(storage.uri) / marker)
        tasks = {node: _look_for(path, node) for node in address_by_node}
        blind = sorted({address_by_node[n] for n, task in tasks.items() if _result(task) is False})
    finally:
        storage.delete(marker)
    if blind:
        what = f"{storage.uri} is a folder of this node alone: {', '.join(blind)} can't see it."
        raise InputError("storage not shared by all nodes:", [Problem("storage", what, SHARED_FIX)])
    known |= {*address_by_node}


def _look_for(path: str, node: str) -> ray.ObjectRef:
    """Start a task on a node that looks for a file."""
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=strategy)(_appears)
    return task.remote(path)


def _result(task: ray.ObjectRef) -> bool | None:
    """None for a node that is gone or doesn't answer: later work on it reports that itself."""
    try:
        return bool(ray.get(task, timeout=ANSWER_S))
    except ray.exceptions.RayError:
        return None


def _appears(path: str) -> bool:
    deadline = time.monotonic() + WAIT_S
    while not (exists := Path(path).exists()) and time.monotonic() < deadline:
        time.sleep(0.2)
    return exists
