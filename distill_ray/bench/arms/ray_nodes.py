"""`python -m distill_ray.bench.arms.ray_nodes`: a Ray cluster on this machine that loses nodes.

Reads requests from standard input and writes replies to standard output, each a line of JSON. All
nodes end when the input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

NODE_ARGS: dict[str, Any] = {
    "num_cpus": 1,
    "object_store_memory": 100 * 2**20,
    # Nothing listens beyond this machine; for 127.0.0.1, drivers would look beyond it.
    "node_ip_address": "127.0.0.2",
}
"""Options that every node is started with."""


class Nodes:
    """A head, which is never lost, and worker nodes; each has room for one worker."""

    def __init__(self) -> None:
        head = {**NODE_ARGS, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._workers: list[Any] = []
        """Worker nodes, oldest first."""

    def have(self, count: int) -> dict[str, Any]:
        """Add or lose nodes until this many are beside the head."""
        while len(self._workers) > count:
            self.lose()
        while len(self._workers) < count:
            self.add()
        return {"address": self._cluster.address}

    def add(self) -> dict[str, Any]:
        """Add a node."""
        self._workers.append(self._cluster.add_node(**NODE_ARGS))
        return {}

    def lose(self) -> dict[str, Any]:
        """SIGKILL all processes of the oldest node."""
        self._cluster.remove_node(self._workers.pop(0), allow_graceful=False)
        return {}

    def drain(self, deadline_s: int) -> dict[str, Any]:
        """Drain the oldest node with a deadline, as a watcher of spot notices does."""
        command = [str(Path(sys.executable).with_name("ray")), "drain-node"]
        command += ["--address", self._cluster.address, "--node-id", self._workers[0].node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "bench chaos"]
        command += ["--deadline-remaining-seconds", str(deadline_s)]
        result = subprocess.run(command, capture_output=True, text=True)
        return {"error": result.stderr[-2000:]} if result.returncode else {}

    def close(self) -> None:
        """End all nodes."""
        self.have(0)
        self._cluster.remove_node(self._cluster.head_node)


def main() -> None:
    """Serve requests until the input ends."""
    replies, sys.stdout = sys.stdout, sys.stderr  # Libraries print where they like.
    nodes = Nodes()
    try:
        for line in sys.stdin:
            request = json.loads(line)
            reply = getattr(nodes, request.pop("do"))(**request)
            replies.write(json.dumps(reply) + "\n")
            replies.flush()
    finally:
        nodes.close()


if __name__ == "__main__":
    main()
