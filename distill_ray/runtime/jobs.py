"""The jobs of a cluster, through Ray's job server: submitted, listed, followed, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from distill_ray.config.errors import InputError, Problem
from distill_ray.runtime.environment import TOKEN_FIX, variables_set
from distill_ray.runtime.submission import Attempt, Submission, attempt_of

GRACE_S = 60.0
"""How long a cluster that doesn't answer any more is asked again, while a job is followed."""
PORTS = {"http": 80, "https": 443}


class Jobs:
    """The job server of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect to it.

        Args:
            address: its URL, such as `http://127.0.0.1:8265`.

        Raises:
            InputError: nobody answers there, or not to us.
        """
        self.address = _url(address)
        _hush()
        with self._talking():
            _knock(self.address)
            # Ray would prefer a RAY_ADDRESS of the environment to what it is told.
            with variables_set({"RAY_API_SERVER_ADDRESS": self.address}):
                self._client = JobSubmissionClient(self.address)

    def attempts(self) -> list[Attempt]:
        """All jobs that are attempts of runs."""
        with self._talking():
            found = (attempt_of(job) for job in self._client.list_jobs())
            return [attempt for attempt in found if attempt is not None]

    def attempt(self, job_id: str) -> Attempt:
        """One of them as it is now."""
        with self._talking():
            found = attempt_of(self._client.get_job_info(job_id))
        if found is None:
            raise ValueError(f"{job_id!r} is no attempt of a run")
        return found

    def submit(self, submission: Submission, job_id: str) -> None:
        """Send the working directory and start the job."""
        with self._talking():
            self._client.submit_job(**submission.request(job_id))

    def logs(self, job_id: str) -> str:
        """What the job has written until now."""
        with self._talking():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> Attempt:
        """Hand on what the job writes until it has ended.

        A connection that breaks is made again, and nothing is told twice.

        Raises:
            InputError: the cluster hasn't answered for a minute.
        """
        tail, heard = _Tail(write), time.monotonic()
        while True:
            try:
                asyncio.run(tail.read(self._client, job_id))
                attempt = self.attempt(job_id)
                if attempt.over:
                    return attempt
                heard = time.monotonic()
            except Exception as error:
                if tail.moved():
                    heard = time.monotonic()
                if time.monotonic() - heard > GRACE_S:
                    what = f"{_told(self.address)} doesn't answer any more ({error})."
                    fix = f"The job may go on: distill-ray jobs logs {job_id} --follow"
                    raise InputError(
                        "the job was lost:", [Problem("--address", what, fix)]
                    ) from None
            time.sleep(1)

    def stop(self, job_id: str, timeout_s: float) -> Attempt:
        """Ask the job to end, and wait until it has."""
        with self._talking():
            self._client.stop_job(job_id)
        until = time.monotonic() + timeout_s
        while not (attempt := self.attempt(job_id)).over and time.monotonic() < until:
            time.sleep(0.5)
        return attempt

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """What can go wrong on the way to the server is told as a problem of the input."""
        where = _told(self.address)
        try:
            yield
        except AuthenticationError as error:
            what = f"{where}: {_refusal(str(error))}; {TOKEN_FIX}"
            raise InputError("not let in:", [Problem("--address", what)]) from None
        except OSError as error:  # So are all errors of `requests`.
            fix = "Give the URL of the cluster's dashboard, such as http://127.0.0.1:8265."
            what = f"no Ray at {where} ({error})."
            raise InputError("no connection:", [Problem("--address", what, fix)]) from None
        except (RuntimeError, ValueError) as error:
            problem = Problem("--address", f"{where} says: {error}")
            raise InputError("the cluster refuses:", [problem]) from None


class _Tail:
    """A job's log over as many connections as it takes; each begins with the log's beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._told = self._marked = 0

    async def read(self, client: JobSubmissionClient, job_id: str) -> None:
        """Hand on what is new, until the job has ended or the connection breaks."""
        position = 0
        async for text in client.tail_job_logs(job_id):
            new = text[max(0, self._told - position) :]
            position += len(text)
            if new:
                self._told = position
                self._write(new)

    def moved(self) -> bool:
        """Whether something was new since the last time that this was asked."""
        before, self._marked = self._marked, self._told
        return self._told > before


def _url(address: str) -> str:
    """With its scheme; `host:port` without one would be taken for where drivers connect."""
    url = address if "://" in address else f"http://{address}"
    if urlsplit(url).scheme not in PORTS or not urlsplit(url).hostname:
        fix = "Give the URL of the cluster's dashboard, such as http://127.0.0.1:8265."
        problem = Problem("--address", f"{address!r} is no http or https URL.", fix)
        raise InputError("no connection:", [problem])
    return url.rstrip("/")


def _knock(url: str) -> None:
    """A server that isn't there is told in seconds, where Ray's client would wait for minutes."""
    parts = urlsplit(url)
    if os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return
    at = (str(parts.hostname), parts.port or PORTS[parts.scheme])
    with socket.create_connection(at, timeout=10):
        pass


def _refusal(error: str) -> str:
    """What is wrong with the token, in one sentence."""
    if error.startswith("Authentication required"):
        return "the cluster wants a token, and none was sent"
    if error.startswith("Authentication failed"):
        return "the cluster refuses the token that was sent"
    return error.partition(". ")[0]  # No token is found on this machine; what follows is advice.


def _told(url: str) -> str:
    """The URL without a user's name and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _hush() -> None:
    """Ray's client tells what it packs and sends; we do."""
    for module in (
        "dashboard.modules.job.sdk",
        "dashboard.modules.dashboard_sdk",
        "dashboard.utils",
    ):
        logging.getLogger(f"ray.{module}").setLevel(logging.ERROR)
    for module in ("packaging", "working_dir"):
        logging.getLogger(f"ray._private.runtime_env.{module}").setLevel(logging.ERROR)
