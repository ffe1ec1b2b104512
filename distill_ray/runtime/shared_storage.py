"""Whether the nodes of a cluster see one storage: tried, since no path tells."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.artifacts import SHARED_FIX
from distill_ray.runtime.storage import Storage

WAIT_S = 5.0
"""How long a network file system may take to show a file to another node."""
ANSWER_S = 120.0


def check_shared(storage: Storage, known: set[str]) -> None:
    """Refuse a folder that some node with resources doesn't see.

    Args:
        storage: the run's own.
        known: ids of nodes that do; grows.

    Raises:
        InputError: names those that don't.
    """
    if not storage.local:
        return
    here = ray.get_runtime_context().get_node_id()
    others = {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and {"CPU", "GPU"} & {*node["Resources"]}
    }
    asked = {at: name for at, name in others.items() if at not in {here, *known}}
    if not asked:
        return
    mark = f".seen-{uuid.uuid4().hex}"
    storage.write_bytes(mark, b"")
    try:
        found = {at: _asked(at, str(Path(storage.uri) / mark)) for at in asked}
        blind = sorted({asked[at] for at, answer in found.items() if _answer(answer) is False})
    finally:
        storage.delete(mark)
    if blind:
        what = f"{storage.uri} is a folder of this node alone: {', '.join(blind)} can't see it."
        problem = Problem("storage", what, SHARED_FIX)
        raise InputError("the storage isn't shared by the cluster's nodes:", [problem])
    known |= {*asked}


def _asked(node: str, path: str) -> ray.ObjectRef:
    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=strategy)(_sees)
    return task.remote(path)


def _answer(asked: ray.ObjectRef) -> bool | None:
    """None of a node that is gone, or can't answer: what works on it later says so itself."""
    try:
        return bool(ray.get(asked, timeout=ANSWER_S))
    except ray.exceptions.RayError:
        return None


def _sees(path: str) -> bool:
    ends = time.monotonic() + WAIT_S
    while not (found := Path(path).exists()) and time.monotonic() < ends:
        time.sleep(0.2)
    return found
