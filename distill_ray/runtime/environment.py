"""Environment variables that Ray reads at import. Imports nothing of Ray."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

WORKER_ENV = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Set in every worker."""


DRIVER_ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Tune's new console prints boxes at any verbosity.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Seconds between a Train controller's polls of its workers. A worker that reports a checkpoint
    # waits until the last one was polled: at Ray's 2.0, small jobs wait more than they compute.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long a worker group waits for resources before Train counts them again. Ray counts a
    # killed node for a while: at Ray's 60, fewer workers would continue a minute later.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}


LOCAL_ENV = {
    # No cloud preempts this machine. The actor that watches for it starts while the workers import
    # their libraries, and takes 2 s of 2 cores.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray's processes listen on every interface, except on an operating system that can't be part of
    # a cluster. There the node's address is 127.0.0.1, and all processes bind to it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # So do gloo and NCCL, between workers.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""Set for a Ray that we start on this machine alone."""


TOKEN_FIX = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file), or RAY_AUTH_TOKEN, as the cluster "
    "was started with."
)
"""The fix for a failed authentication."""


def python_path() -> dict[str, str]:
    """A PYTHONPATH with which workers import a user's modules from the working directory."""
    inherited = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(part for part in (str(Path.cwd()), inherited) if part)}


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables for processes that start in the block, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def cluster_address(configured: str | None) -> str | None:
    """The cluster that a run joins; None starts Ray on this machine.

    As in every Ray program, RAY_ADDRESS is the default. Ray sets it in a job, so a submitted run
    joins the cluster that it was submitted to.

    Args:
        configured: `cluster.address`.
    """
    default = os.environ.get("RAY_ADDRESS") or None
    # A dashboard's URL serves to submit jobs, not to join the cluster.
    is_dashboard = default is not None and default.startswith(("http://", "https://"))
    return configured if configured is not None or is_dashboard else default


def prepare_client() -> None:
    """Make Ray's clients use the token in the environment, if there is one. Call before import."""
    has_token = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if has_token and not os.environ.get("RAY_AUTH_MODE"):
        os.environ["RAY_AUTH_MODE"] = "token"


def prepare(address: str | None) -> None:
    """Set the variables that Ray needs before its import. The user's own values take precedence.

    A Ray of our own gets a fresh token: no other program on this machine can use it, and Ray writes
    no token to the home folder. On a cluster, the user's token is used.
    """
    defaults = {**WORKER_ENV, **DRIVER_ENV, **(LOCAL_ENV if address is None else {})}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    if address is not None:
        prepare_client()
    elif "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
