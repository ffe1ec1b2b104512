"""Spot notices: poll the cloud's metadata service, and drain this node in Ray before it goes.

Open-source Ray doesn't do this. A drained node gets no new work, and Ray Train saves a checkpoint
in time. Only the functions that drain import Ray.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from distill_ray.runtime.ray_private import RAY_COMMAND

AWS_METADATA = "http://169.254.169.254"
GCP_METADATA = "http://metadata.google.internal"
AWS_TOKEN_S = 21600
"""Lifetime of a session token of the instance metadata service: the maximum."""
GCP_NOTICE_S = 30
"""Compute Engine gives a preempted instance this long, and says no more."""
GCP_WAIT_S = 60
"""How long one request waits for its value to change."""
CALL_S = 5.0
RETRY_S = 1.0
"""Between attempts to poll or to drain."""
COMMAND_S = 15
"""Shortest timeout of the drain command: most of its time is Ray's import."""

Report = Callable[[str], None]


class DrainError(RuntimeError):
    """Ray refused to drain the node, or wasn't reachable in time."""


@dataclass(frozen=True)
class Notice:
    """The cloud's notice that it reclaims this node."""

    what: str
    """The notice in the cloud's words."""
    seconds_left: int


class AwsMetadata:
    """Amazon EC2's metadata service, version 2: each request carries a session token.

    Source: Amazon EC2 user guide, "Spot Instance interruption notices": a notice comes two minutes
    ahead; until then the page doesn't exist (404).
    """

    interval_s = 5.0

    def __init__(self, url: str = AWS_METADATA) -> None:
        self._url = url
        self._token = ""

    def poll(self) -> Notice | None:
        """The notice, if there is one. Replaces an expired token.

        Raises:
            OSError, HTTPException: the service doesn't answer.
            ValueError, KeyError: the answer can't be read.
        """
        try:
            return self._instance_action()
        except HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                raise
        self._token = ""
        return self._instance_action()

    def _instance_action(self) -> Notice | None:
        if not self._token:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_S)}
            self._token, _ = _call("PUT", f"{self._url}/latest/api/token", ttl)
        header = {"X-aws-ec2-metadata-token": self._token}
        try:
            body, _ = _call("GET", f"{self._url}/latest/meta-data/spot/instance-action", header)
        except HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        action = json.loads(body)
        end = datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
        remaining_s = (end - datetime.now(timezone.utc)).total_seconds()
        return Notice(f"{action['action']} at {action['time']}", max(0, int(remaining_s)))


class GcpMetadata:
    """Google Compute Engine's metadata service, which holds a request until its value changes.

    Source: Compute Engine documentation, "Preemptible VM instances", "Query metadata values".
    """

    interval_s = 0.0

    def __init__(self, url: str = GCP_METADATA) -> None:
        self._url = url
        self._etag = "0"  # No value has this tag, so the first answer comes at once.

    def poll(self) -> Notice | None:
        """The notice, if there is one; waits up to a minute for it. Raises as EC2's does."""
        query = f"wait_for_change=true&timeout_sec={GCP_WAIT_S}&last_etag={self._etag}"
        url = f"{self._url}/computeMetadata/v1/instance/preempted?{query}"
        body, headers = _call("GET", url, {"Metadata-Flavor": "Google"}, CALL_S + GCP_WAIT_S)
        self._etag = headers.get("etag", "0")
        if self._etag == "0":
            time.sleep(1.0)  # Without tags, an answer comes at once.
        return Notice("preempted", GCP_NOTICE_S) if body.strip() == "TRUE" else None


PROVIDERS: dict[str, type[AwsMetadata] | type[GcpMetadata]] = {
    "aws": AwsMetadata,
    "gcp": GcpMetadata,
}
"""Name → its metadata service."""


def watch(
    metadata: AwsMetadata | GcpMetadata, drain: Callable[[Notice], None], report: Report
) -> Notice:
    """Wait for the notice, then drain. Keeps polling a service that doesn't answer.

    Args:
        metadata: the service to poll.
        drain: called with the notice.
        report: called with a line about what happens.
    """
    is_silent = False
    while True:
        try:
            notice = metadata.poll()
        except (OSError, HTTPException, ValueError, KeyError) as error:
            if not is_silent:
                report(f"no answer from the metadata service ({error}); still polling")
            is_silent, notice = True, None
            time.sleep(RETRY_S)
        else:
            if is_silent:
                report("the metadata service answers again")
            is_silent = False
        if notice is not None:
            report(f"spot notice: {notice.what}, {notice.seconds_left} s left; draining this node")
            drain(notice)
            return notice
        time.sleep(metadata.interval_s)


def drain_node(node_id: str, notice: Notice, address: str = "auto") -> None:
    """Tell Ray that a node goes away. Work on the node continues until then.

    Args:
        node_id: Ray's id of the node, in hex.
        notice: when and why the node goes.
        address: the cluster's address.

    Raises:
        DrainError: Ray refused, or wasn't reachable in time.
    """
    deadline = time.monotonic() + notice.seconds_left
    while True:
        remaining_s = max(0, int(deadline - time.monotonic()))
        # The command, since the function behind it isn't public either, and less stable.
        command = [
            sys.executable,
            "-m",
            RAY_COMMAND,
            "drain-node",
            f"--address={address}",
        ]
        command += [f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        command += [
            f"--reason-message={notice.what}",
            f"--deadline-remaining-seconds={remaining_s}",
        ]
        failure = _failure(command, max(remaining_s, COMMAND_S))
        if failure is None:
            return
        if time.monotonic() + RETRY_S >= deadline:
            raise DrainError(f"draining the node failed: {failure}")
        time.sleep(RETRY_S)


def _failure(command: Sequence[str], timeout_s: float) -> str | None:
    """A command's error, or None when it succeeded."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout_s:g} s"
    if result.returncode == 0:
        return None
    return (result.stderr.strip() or result.stdout.strip())[-500:]


def this_node(address: str = "auto") -> str:
    """Ray's id of the node that this process is on, in hex."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        return str(ray.get_runtime_context().get_node_id())
    finally:
        ray.shutdown()


def _call(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float = CALL_S
) -> tuple[str, dict[str, str]]:
    """The body and the headers, their names in lower case.

    Bypasses any proxy: only this machine can reach its own metadata service.
    """
    request = Request(url, headers=dict(headers), method=method)
    with build_opener(ProxyHandler({})).open(request, timeout=timeout_s) as answer:
        return answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()}
