"""A node that the cloud takes back, in a real cluster of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import ray
from cloud_metadata import Ec2, served
from ray.cluster_utils import Cluster

from distill_ray.config.cluster import ClusterConfig
from distill_ray.runtime.cluster import HOSTS, shutdown, teacher_nodes
from distill_ray.runtime.spot import DrainError, Notice, drain_node

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[tuple[Cluster, Any, Any]]:
    """A head without CPUs, a node for students and one for teachers."""
    shutdown()  # The one that other modules share.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        student = cluster.add_node(num_cpus=1, labels={HOSTS: "student"})
        teacher = cluster.add_node(num_cpus=1, labels={HOSTS: "teacher"})
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, student, teacher
    finally:
        ray.shutdown()
        cluster.shutdown()


def until(seen: Callable[[], Any], timeout_s: float = 60.0) -> Any:
    ends = time.monotonic() + timeout_s
    while not (found := seen()):
        assert time.monotonic() < ends, "it didn't happen in time"
        time.sleep(0.2)
    return found


def alive() -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


@ray.remote(num_cpus=1)
class Work:
    def where(self) -> str:
        return str(ray.get_runtime_context().get_node_id())


def test_work_with_a_teacher_keeps_off_the_students_nodes(
    two_nodes: tuple[Cluster, Any, Any],
) -> None:
    cluster, student, teacher = two_nodes
    nodes = teacher_nodes(ClusterConfig(address=cluster.address))
    first = Work.options(label_selector=nodes).remote()
    assert ray.get(first.where.remote(), timeout=60) == teacher.node_id
    # The other node is free, and none of its business.
    second = Work.options(label_selector=nodes).remote()
    assert not ray.wait([second.where.remote()], timeout=3)[0]
    anywhere = Work.remote()
    assert ray.get(anywhere.where.remote(), timeout=60) == student.node_id
    for actor in (first, second, anywhere):
        ray.kill(actor)


def test_so_do_trials_trainings_and_pools_of_ray_data(
    two_nodes: tuple[Cluster, Any, Any], tmp_path: Path
) -> None:
    import ray.data
    import ray.train.torch
    from ray import tune

    # Local, so that they are sent by value: workers can't import the tests.
    class WhereBatches:
        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            return {"node": [ray.get_runtime_context().get_node_id()] * len(batch["item"])}

    def where_trial(_: dict[str, Any]) -> None:
        tune.report({"node": ray.get_runtime_context().get_node_id()})

    def where_worker(payload: dict[str, Any]) -> None:
        Path(payload["file"]).write_text(ray.get_runtime_context().get_node_id())

    cluster, _, teacher = two_nodes
    nodes = teacher_nodes(ClusterConfig(address=cluster.address))
    pool = ray.data.ActorPoolStrategy(size=1)
    items = ray.data.from_items([1, 2, 3], override_num_blocks=3)
    how = {"compute": pool, "num_cpus": 1, "batch_size": 1, "label_selector": nodes}
    rows = items.map_batches(WhereBatches, **how).take_all()
    assert {row["node"] for row in rows} == {teacher.node_id}

    bundles = tune.PlacementGroupFactory([{"CPU": 1}], bundle_label_selector=[nodes])
    space = {"number": tune.grid_search([0, 1])}
    stored = tune.RunConfig(storage_path=str(tmp_path), name="trials", verbose=0)
    tuner = tune.Tuner(
        tune.with_resources(where_trial, bundles), param_space=space, run_config=stored
    )
    assert {result.metrics["node"] for result in tuner.fit()} == {teacher.node_id}

    file = tmp_path / "worker"
    ray.train.torch.TorchTrainer(
        where_worker,
        train_loop_config={"file": str(file)},
        scaling_config=ray.train.ScalingConfig(num_workers=1, label_selector=nodes),
        run_config=ray.train.RunConfig(storage_path=str(tmp_path), name="training"),
    ).fit()
    assert file.read_text() == teacher.node_id


def test_a_notice_drains_the_node_which_ends_with_its_work(
    two_nodes: tuple[Cluster, Any, Any],
) -> None:
    cluster, student, teacher = two_nodes
    work = Work.options(label_selector={HOSTS: "student"}).remote()
    assert ray.get(work.where.remote(), timeout=60) == student.node_id
    command = [sys.executable, "-m", "distill_ray", "cluster", "watch", "--provider", "aws"]
    with served(Ec2) as service:
        command += ["--metadata", service.url, "--node-id", student.node_id]
        command += ["--address", cluster.address]
        # Its own group, so that it can be ended with what it has started.
        watcher = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
        )
        try:
            until(lambda: service.asked)
            assert not ray._private.state.state.get_draining_nodes()
            at = datetime.now(timezone.utc) + timedelta(seconds=120)
            action = {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
            service.give(json.dumps(action))
            said, _ = watcher.communicate(timeout=90)
        finally:
            watcher.kill()
            watcher.wait()
    assert watcher.returncode == 0, said
    assert "spot notice: terminate at" in said and said.rstrip().endswith("drained")
    # What Ray Train asks for: the node, and when it will be gone.
    draining = ray._private.state.state.get_draining_nodes()
    assert set(draining) == {student.node_id}
    assert abs(draining[student.node_id] / 1000 - at.timestamp()) < 15
    assert ray.get(work.where.remote(), timeout=10) == student.node_id, "its work goes on"
    assert not ray.wait(
        [Work.options(label_selector={HOSTS: "student"}).remote().where.remote()], timeout=3
    )[0], "nothing new comes to it"
    ray.kill(work)
    until(lambda: student.node_id not in alive())
    assert teacher.node_id in alive()


def test_a_cluster_out_of_reach_is_an_error_soon_after_the_deadline() -> None:
    started = time.monotonic()
    with pytest.raises(DrainError, match="draining the node failed"):
        drain_node("ab" * 28, Notice("terminate", 3), address="127.0.0.1:9")
    assert time.monotonic() - started < 60


def test_a_process_learns_which_node_it_is_on(two_nodes: tuple[Cluster, Any, Any]) -> None:
    cluster = two_nodes[0]
    code = (
        "from distill_ray.runtime.spot import this_node; import sys; print(this_node(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, cluster.address], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] in alive()
