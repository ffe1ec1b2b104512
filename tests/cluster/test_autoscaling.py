"""A cluster that has no node to work on: nodes come for a run, and go after it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ray_cluster import Head, clean_environment, head
from tiny_run import config

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

TOKEN = "token-of-a-cluster-that-grows"
SECRET = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
MOST = 2


@pytest.fixture
def cluster() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(prefix="r") as home, head(Path(home), SECRET, MOST) as made:
        yield made


def workers(cluster: Head) -> int:
    """Nodes that are up beside the head."""
    found = requests.get(
        f"{cluster.url}/api/v0/nodes",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=60,
    ).json()
    rows: list[dict[str, Any]] = found["data"]["result"]["result"]
    return sum(row["state"] == "ALIVE" and not row["is_head_node"] for row in rows)


class Watched(threading.Thread):
    """Looks how many nodes there are until it is told to stop."""

    def __init__(self, cluster: Head) -> None:
        super().__init__(daemon=True)
        self.cluster, self.over, self.counts = cluster, threading.Event(), [0]

    def run(self) -> None:
        while not self.over.wait(1.0):
            self.counts.append(workers(self.cluster))

    def stop(self) -> int:
        """The most that there were."""
        self.over.set()
        self.join(timeout=90)
        return max(self.counts)


def command(cluster: Head, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "distill_ray", *words, "--set", f"cluster.address={cluster.gcs}"],
        cwd=folder,
        env=clean_environment(folder, **SECRET),
        capture_output=True,
        text=True,
        timeout=1000,
    )


def test_nodes_come_for_a_run_and_go_after_it(cluster: Head, tmp_path: Path) -> None:
    data = config(tmp_path)
    data["teachers"] = data["teachers"][:1]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(data))
    assert workers(cluster) == 0
    watched = Watched(cluster)
    watched.start()
    done = command(cluster, tmp_path, "run", "tiny.yaml")
    most = watched.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting for nodes: 2 CPUs" in done.stdout
    assert most == MOST
    assert list((tmp_path / "runs" / "tiny" / "report").glob("*/report.html"))
    until = time.monotonic() + 120
    while workers(cluster):
        assert time.monotonic() < until, "nodes with nothing to do never went"
        time.sleep(1)


def test_more_than_it_may_ever_have_is_refused(cluster: Head, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config(tmp_path)))
    done = command(cluster, tmp_path, "shard", "tiny.yaml", "--set", "cluster.num_workers=4")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "insufficient cluster resources, even after autoscaling:" in done.stderr
    assert "4 workers x 1 CPU = 4 CPUs" in done.stderr
    assert workers(cluster) == 0
