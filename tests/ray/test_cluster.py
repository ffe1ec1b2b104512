"""A Ray of our own."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
import ray
from open_ports import beyond_loopback, listening

from distill_ray.runtime.cluster import waiting_for_nodes
from distill_ray.runtime.environment import WORKER_ENV
from distill_ray.runtime.progress import Event

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]


def test_workers_have_our_variables_and_the_folder_of_the_command() -> None:
    found = ray.get(ray.remote(num_cpus=0)(lambda: dict(os.environ)).remote())
    assert {name: found[name] for name in WORKER_ENV} == WORKER_ENV
    assert found["DS_ACCELERATOR"] == "cpu" and "DS_ACCELERATOR" not in os.environ
    assert str(Path.cwd()) in found["PYTHONPATH"].split(os.pathsep)


class Heard(list[Event]):
    emit = list.append


@pytest.mark.parametrize(
    ("cpus", "said"), [(99, "waiting for nodes: 99 CPUs, {} available"), (1, "")]
)
def test_what_lacks_is_said_at_once_however_short_the_wait(cpus: int, said: str) -> None:
    heard = Heard()
    with waiting_for_nodes(heard, "probe", {"CPU": cpus}):
        pass
    there = f"{ray.cluster_resources()['CPU']:g}"
    # A note: no line of progress a moment before keeps it off the screen.
    assert heard == ([Event("note", "probe", said.format(there))] if said else [])


def test_no_process_of_it_can_be_reached_from_another_machine() -> None:
    ray.get(ray.remote(num_cpus=0)(lambda: None).remote())  # A worker listens, too.
    processes = psutil.Process().children(recursive=True)
    assert len(listening(processes)) >= 5
    assert beyond_loopback(processes) == []
