"""A Ray cluster of one node, started as an administrator would: a head with a token, in processes
of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
)
from ray.util import get_node_ip_address

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Head:
    """A head that is up."""

    url: str
    gcs: str
    """Where drivers connect."""
    session: Path
    """Ray's own files, logs among them."""
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """All that belong to it, drivers and workers as well."""
        return [self.process, *self.process.children(recursive=True)]


def clean_environment(home: Path, **variables: str) -> dict[str, str]:
    """This process's without what it knows of Ray, and with a home folder of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = os.pathsep.join([str(BIN), kept.get("PATH", "")])
    code = os.pathsep.join([str(ROOT), kept.get("PYTHONPATH", "")])
    return {**kept, "HOME": str(home), "PATH": path, "PYTHONPATH": code, **variables}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


SCALING = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
"""What a head must know whose autoscaler starts its nodes as processes of this machine."""


def scaling(address: str, most: int, idle_s: float) -> dict[str, Any]:
    """What Ray's autoscaler is told.

    Args:
        address: of the head.
        most: nodes of one CPU that there may be.
        idle_s: how long one may have nothing to do.
    """
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": most}
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": address,
        "head_node_id": FAKE_HEAD_NODE_ID,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
    }
    types = {
        FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": worker,
    }
    commands = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    return {
        **{key: [] for key in (*commands, "cluster_synced_files")},
        "cluster_name": "here",
        "max_workers": most,
        "idle_timeout_minutes": idle_s / 60,
        "provider": provider,
        "available_node_types": types,
        "head_node_type": FAKE_HEAD_NODE_TYPE,
    }


@contextmanager
def head(home: Path, variables: Mapping[str, str], most: int | None = None) -> Iterator[Head]:
    """Start a head on this machine and end it by its processes.

    Args:
        home: where it keeps all its files; short, as sockets' paths have 107 characters at most.
        variables: more of its environment, the token among them.
        most: nodes that its autoscaler may start beside it, which alone have CPUs; none for a head
            with CPUs, reachable from this machine alone.
    """
    temporary = home / "r"
    temporary.mkdir(parents=True)
    own = {"RAY_TMPDIR": str(temporary), "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"} if most is None else SCALING
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("node-manager-port", "object-manager-port", "metrics-export-port")
    ports = free_ports(len(names))
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    flags += ["--head", "--block", "--object-store-memory=100000000"]
    address = f"127.0.0.1:{ports[0]}"
    if most is None:
        flags.append("--num-cpus=4")
    else:
        address = f"{get_node_ip_address()}:{ports[0]}"  # The autoscaler's nodes look there.
        (home / "scaling.yaml").write_text(yaml.safe_dump(scaling(address, most, idle_s=15)))
        flags += ["--num-cpus=0", f"--autoscaling-config={home / 'scaling.yaml'}"]
    with (home / "head.log").open("w") as log:
        started = psutil.Popen(
            [str(BIN / "ray"), "start", *flags],
            env=clean_environment(home, **own, **variables),
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    up = Head(
        f"http://127.0.0.1:{ports[1]}",
        address,
        temporary / "ray" / "session_latest",
        psutil.Process(started.pid),
    )
    try:
        _wait_for(up, home / "head.log")
        yield up
    finally:
        _end(up)


def command_line(process: psutil.Process) -> list[str]:
    """Its words; none of a process that has just ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _wait_for(up: Head, log: Path) -> None:
    import requests

    until = time.monotonic() + 90
    while time.monotonic() < until and up.process.is_running():
        try:
            requests.get(f"{up.url}/api/version", timeout=5)
            return
        except requests.RequestException:
            time.sleep(0.5)
    raise RuntimeError(f"no head: {log.read_text()[-3000:]}")


def _end(up: Head) -> None:
    """The whole tree, the leaves as well: children of a killed parent would live on."""
    known = up.processes()
    for process in known:
        _kill(process)
    psutil.wait_procs(known, timeout=30)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return
