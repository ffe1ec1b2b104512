"""Spot notices: asks the cloud whether it takes this node back, and drains it in Ray.

Nothing in open-source Ray does. A drained node gets no new work, and Ray Train hears of it in time
for a checkpoint. Only what drains imports Ray.
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
from urllib.request import OpenerDirector, ProxyHandler, Request, build_opener

AWS_METADATA = "http://169.254.169.254"
GCP_METADATA = "http://metadata.google.internal"
AWS_TOKEN_S = 21600
"""How long a session token of the instance metadata service is asked for; its maximum."""
GCP_NOTICE_S = 30
"""Compute Engine gives a preempted instance so long, and doesn't tell more."""
GCP_WAIT_S = 60
"""How long one question may wait for its answer to change."""
CALL_S = 5.0
RETRY_S = 1.0
"""Between attempts, to ask or to drain."""
COMMAND_S = 15
"""A command to drain may always take so long: most of it is Ray's import."""

Tell = Callable[[str], None]


class DrainError(RuntimeError):
    """Ray refused to drain the node, or couldn't be reached before it was taken."""


@dataclass(frozen=True)
class Notice:
    """The cloud takes this node back."""

    what: str
    """In the cloud's words."""
    seconds_left: int


class AwsMetadata:
    """Amazon EC2, version 2 of its service: each question carries a session token.

    Source: Amazon EC2 user guide, "Spot Instance interruption notices": a notice comes two minutes
    ahead, and until then there is no such page (404).
    """

    interval_s = 5.0

    def __init__(self, url: str = AWS_METADATA) -> None:
        self._url = url
        self._token = ""

    def ask(self) -> Notice | None:
        """The notice, if there is one. An expired token is replaced.

        Raises:
            OSError, HTTPException: no answer.
            ValueError, KeyError: an answer that can't be read.
        """
        try:
            return self._asked()
        except HTTPError as error:
            if error.code != HTTPStatus.UNAUTHORIZED:
                raise
        self._token = ""
        return self._asked()

    def _asked(self) -> Notice | None:
        if not self._token:
            ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(AWS_TOKEN_S)}
            self._token, _ = _call("PUT", f"{self._url}/latest/api/token", ttl)
        header = {"X-aws-ec2-metadata-token": self._token}
        try:
            said, _ = _call("GET", f"{self._url}/latest/meta-data/spot/instance-action", header)
        except HTTPError as error:
            if error.code == HTTPStatus.NOT_FOUND:
                return None
            raise
        return _aws_notice(said)


class GcpMetadata:
    """Google Compute Engine, whose service keeps a question until its answer changes.

    Source: Compute Engine documentation, "Preemptible VM instances", "Query metadata values".
    """

    interval_s = 0.0

    def __init__(self, url: str = GCP_METADATA) -> None:
        self._url = url
        self._etag = "0"  # That of no answer: the first one comes at once.

    def ask(self) -> Notice | None:
        """The notice, if there is one; waits up to a minute for it. Raises as EC2's does."""
        query = f"wait_for_change=true&timeout_sec={GCP_WAIT_S}&last_etag={self._etag}"
        place = f"{self._url}/computeMetadata/v1/instance/preempted?{query}"
        said, headers = _call("GET", place, {"Metadata-Flavor": "Google"}, CALL_S + GCP_WAIT_S)
        self._etag = headers.get("etag", "0")
        if self._etag == "0":
            time.sleep(1.0)  # Without tags, an answer comes at once.
        return Notice("preempted", GCP_NOTICE_S) if said.strip() == "TRUE" else None


PROVIDERS: dict[str, type[AwsMetadata] | type[GcpMetadata]] = {
    "aws": AwsMetadata,
    "gcp": GcpMetadata,
}
"""Name → its metadata service."""


def watch(
    metadata: AwsMetadata | GcpMetadata, drain: Callable[[Notice], None], tell: Tell
) -> Notice:
    """Wait for the notice, then drain. A service that doesn't answer is asked again.

    Args:
        metadata: whom to ask.
        drain: what to do then.
        tell: hears what happens.
    """
    silent = False
    while True:
        try:
            notice = metadata.ask()
        except (OSError, HTTPException, ValueError, KeyError) as error:
            if not silent:
                tell(f"no answer from the metadata service ({error}); asking on")
            silent, notice = True, None
            time.sleep(RETRY_S)
        else:
            if silent:
                tell("the metadata service answers again")
            silent = False
        if notice is not None:
            tell(f"spot notice: {notice.what}, {notice.seconds_left} s left; draining this node")
            drain(notice)
            return notice
        time.sleep(metadata.interval_s)


def drain_node(node_id: str, notice: Notice, address: str = "auto") -> None:
    """Tell Ray that a node will be gone. What runs there runs on until then.

    Args:
        node_id: Ray's id of the node, in hex.
        notice: when, and why.
        address: the cluster's.

    Raises:
        DrainError: Ray refused, or wasn't reached in time.
    """
    deadline = time.monotonic() + notice.seconds_left
    while True:
        left = max(0, int(deadline - time.monotonic()))
        # The command, as the function behind it isn't public either, and less stable.
        command = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "drain-node",
            f"--address={address}",
        ]
        command += [f"--node-id={node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
        command += [f"--reason-message={notice.what}", f"--deadline-remaining-seconds={left}"]
        said = _failure(command, max(left, COMMAND_S))
        if said is None:
            return
        if time.monotonic() + RETRY_S >= deadline:
            raise DrainError(f"the node isn't drained: {said}")
        time.sleep(RETRY_S)


def _failure(command: Sequence[str], timeout_s: float) -> str | None:
    """What a command ended with, or None when it did what it should."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout_s:g} s"
    return None if done.returncode == 0 else (done.stderr.strip() or done.stdout.strip())[-500:]


def this_node(address: str = "auto") -> str:
    """Ray's id of the node that this process is on, in hex."""
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        return str(ray.get_runtime_context().get_node_id())
    finally:
        ray.shutdown()


def _aws_notice(said: str) -> Notice:
    action = json.loads(said)
    at = datetime.strptime(action["time"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    left = (at - datetime.now(timezone.utc)).total_seconds()
    return Notice(f"{action['action']} at {action['time']}", max(0, int(left)))


def _call(
    method: str, url: str, headers: Mapping[str, str], timeout_s: float = CALL_S
) -> tuple[str, dict[str, str]]:
    """The body and the headers, their names in lower case."""
    request = Request(url, headers=dict(headers), method=method)
    with _direct().open(request, timeout=timeout_s) as answer:
        return answer.read().decode(), {k.lower(): v for k, v in answer.headers.items()}


def _direct() -> OpenerDirector:
    """Past any proxy: only this machine can ask its own metadata service."""
    return build_opener(ProxyHandler({}))
