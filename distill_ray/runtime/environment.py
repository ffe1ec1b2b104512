"""Environment variables that Ray reads when it is imported. Imports nothing of Ray."""

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
    # Seconds between a Train controller's looks at its workers. A worker that reports a checkpoint
    # waits for the look at the one before: at Ray's 2.0, small jobs wait more than they compute.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # How long a group waits for room before Train counts anew what there is. Ray takes a node that
    # was killed for there a while longer: at Ray's 60, fewer workers would go on a minute later.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
}


LOCAL_ENV = {
    # No cloud takes this machine back. The actor that looks out for it starts while the workers
    # import their libraries: 2 s of 2 cores.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ray's processes listen on every interface, unless it takes the machine for one that can't be
    # part of a cluster; then the node's address is 127.0.0.1, and all of them bind to it.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # So do gloo and NCCL, between workers.
    "GLOO_SOCKET_IFNAME": "lo",
    "NCCL_SOCKET_IFNAME": "lo",
}
"""For a Ray that we start on this machine alone."""


TOKEN_FIX = (
    "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (a file), or RAY_AUTH_TOKEN, as the cluster "
    "was started with."
)
"""What would do where a cluster doesn't let us in."""


def python_path() -> dict[str, str]:
    """Lets workers import a user's modules from the folder that the command was started in."""
    known = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(part for part in (str(Path.cwd()), known) if part)}


@contextmanager
def variables_set(variables: Mapping[str, str]) -> Iterator[None]:
    """What is started in the block inherits these; afterwards they are as before."""
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

    As in every Ray program, RAY_ADDRESS stands in for an address that isn't given. Ray sets it in a
    job, so that a submitted run joins the cluster that it was submitted to.

    Args:
        configured: `cluster.address`.
    """
    named = os.environ.get("RAY_ADDRESS") or None
    # The dashboard's URL is for submitting; nothing can be joined there.
    at_dashboard = named is not None and named.startswith(("http://", "https://"))
    return configured if configured is not None or at_dashboard else named


def prepare_client() -> None:
    """Set what Ray reads of its clients when it is imported: a token that is given is used."""
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if given and not os.environ.get("RAY_AUTH_MODE"):
        os.environ["RAY_AUTH_MODE"] = "token"


def prepare(address: str | None) -> None:
    """Set what must be there before Ray is imported; what the user has set stays.

    A Ray of our own gets a token of its own, so that nothing else on this machine can use it and
    no token is written to the home folder. On a cluster, the user's token decides.
    """
    ours = {**WORKER_ENV, **DRIVER_ENV, **(LOCAL_ENV if address is None else {})}
    for name, value in ours.items():
        os.environ.setdefault(name, value)
    if address is not None:
        prepare_client()
    elif "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(16))
