"""`python -m distill_ray.bench.arms.ray_nodes`: nodes of a Ray on this machine, lost on demand.

A line of JSON on standard input asks, one on standard output answers. With the end of the input
all nodes end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

EACH: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 100 * 2**20,
    # Nothing listens beyond this machine; for 127.0.0.1, drivers would look beyond it.
    "node_ip_address": "127.0.0.2",
}
"""What a node is started with."""


class Nodes:
    """A head, which is never lost, and nodes beside it; each has room for one worker."""

    def __init__(self) -> None:
        head = {**EACH, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._beside: list[Any] = []
        """The oldest one first."""

    def have(self, count: int) -> dict[str, Any]:
        """See to it that there are so many nodes beside the head."""
        while len(self._beside) > count:
            self.lose()
        while len(self._beside) < count:
            self.add()
        return {"address": self._cluster.address}

    def add(self) -> dict[str, Any]:
        """Another node."""
        self._beside.append(self._cluster.add_node(**EACH))
        return {}

    def lose(self) -> dict[str, Any]:
        """SIGKILL all processes of the oldest node."""
        self._cluster.remove_node(self._beside.pop(0), allow_graceful=False)
        return {}

    def drain(self, deadline_s: int) -> dict[str, Any]:
        """Announce that the oldest node will be gone by then, as a watcher of spot notices does."""
        command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
        command += ["--address", self._cluster.address, "--node-id", self._beside[0].node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "bench chaos"]
        command += ["--deadline-remaining-seconds", str(deadline_s)]
        result = subprocess.run(command, capture_output=True, text=True)
        return {"error": result.stderr[-2000:]} if result.returncode else {}

    def close(self) -> None:
        """End all of them."""
        self.have(0)
        self._cluster.remove_node(self._cluster.head_node)


def main() -> None:
    """Do what is asked until nobody asks any more."""
    answers, sys.stdout = sys.stdout, sys.stderr  # Libraries print where they like.
    nodes = Nodes()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            answer = getattr(nodes, request.pop("do"))(**request)
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
