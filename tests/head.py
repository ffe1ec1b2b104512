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

import psutil

BIN = Path(sys.executable).parent
ROOT = Path(__file__).parents[1]


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


@contextmanager
def head(home: Path, variables: Mapping[str, str]) -> Iterator[Head]:
    """Start a head on this machine, reachable from it alone, and end it by its processes.

    Args:
        home: where it keeps all its files; short, as sockets' paths have 107 characters at most.
        variables: more of its environment, the token among them.
    """
    temporary = home / "r"
    temporary.mkdir(parents=True)
    own = {"RAY_TMPDIR": str(temporary), "RAY_USAGE_STATS_ENABLED": "0"}
    own |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port")
    names += ("node-manager-port", "object-manager-port", "metrics-export-port")
    ports = free_ports(len(names))
    flags = [f"--{name}={port}" for name, port in zip(names, ports, strict=True)]
    flags += ["--head", "--block", "--num-cpus=4", "--object-store-memory=100000000"]
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
        f"127.0.0.1:{ports[0]}",
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
