"""Submit, list, follow and stop jobs through a cluster's job server."""

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
from distill_ray.runtime.ray_private import JOB_CLIENT_LOGGERS
from distill_ray.runtime.submission import Attempt, Submission, attempt_of

GRACE_S = 60.0
"""How long following a job retries a cluster that no longer answers."""
PORTS = {"http": 80, "https": 443}
URL_FIX = "Give the URL of the cluster's dashboard, such as http://127.0.0.1:8265."


class Jobs:
    """The job server of one cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: the dashboard's URL, such as `http://127.0.0.1:8265`.

        Raises:
            InputError: the connection or the authentication failed.
        """
        self.address = _url(address)
        for name in JOB_CLIENT_LOGGERS:  # We report what is packed and sent.
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._input_errors():
            _check_port(self.address)
            # Ray would prefer RAY_ADDRESS from the environment to its argument.
            with variables_set({"RAY_API_SERVER_ADDRESS": self.address}):
                self._client = JobSubmissionClient(self.address)

    def attempts(self) -> list[Attempt]:
        """All jobs that are attempts of runs."""
        with self._input_errors():
            attempts = (attempt_of(job) for job in self._client.list_jobs())
            return [attempt for attempt in attempts if attempt is not None]

    def attempt(self, job_id: str) -> Attempt:
        """The current state of one attempt."""
        with self._input_errors():
            attempt = attempt_of(self._client.get_job_info(job_id))
        if attempt is None:
            raise ValueError(f"job {job_id!r} isn't an attempt of a run")
        return attempt

    def submit(self, submission: Submission, job_id: str) -> None:
        """Upload the working directory and start the job."""
        with self._input_errors():
            self._client.submit_job(**submission.request(job_id))

    def logs(self, job_id: str) -> str:
        """The job's output so far."""
        with self._input_errors():
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, write: Callable[[str], object]) -> Attempt:
        """Pass the job's output to `write` until the job ends.

        Reconnects when a connection breaks, and repeats no output.

        Raises:
            InputError: the cluster hasn't answered for a minute.
        """
        tail, last_answer = _LogTail(write), time.monotonic()
        while True:
            try:
                asyncio.run(tail.read(self._client, job_id))
                attempt = self.attempt(job_id)
                if attempt.over:
                    return attempt
                last_answer = time.monotonic()
            except Exception as error:
                if tail.has_advanced():
                    last_answer = time.monotonic()
                if time.monotonic() - last_answer > GRACE_S:
                    what = f"no answer from {_without_password(self.address)} ({error})."
                    fix = f"The job may go on: distill-ray jobs logs {job_id} --follow"
                    raise InputError(
                        "connection lost:", [Problem("--address", what, fix)]
                    ) from None
            time.sleep(1)

    def stop(self, job_id: str, timeout_s: float) -> Attempt:
        """Stop the job, and wait until it has ended."""
        with self._input_errors():
            self._client.stop_job(job_id)
        deadline = time.monotonic() + timeout_s
        while not (attempt := self.attempt(job_id)).over and time.monotonic() < deadline:
            time.sleep(0.5)
        return attempt

    @contextmanager
    def _input_errors(self) -> Iterator[None]:
        """Turn errors of the connection and the server into input errors."""
        url = _without_password(self.address)
        try:
            yield
        except AuthenticationError as error:
            what = f"{url}: {_token_error(str(error))}; {TOKEN_FIX}"
            raise InputError("authentication failed:", [Problem("--address", what)]) from None
        except OSError as error:  # So are all errors of `requests`.
            what = f"no Ray at {url} ({error})."
            raise InputError("connection failed:", [Problem("--address", what, URL_FIX)]) from None
        except (RuntimeError, ValueError) as error:
            problem = Problem("--address", f"{url} says: {error}")
            raise InputError("request rejected by the cluster:", [problem]) from None


class _LogTail:
    """A job's log over several connections. Each connection sends the log from its beginning."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._num_written = self._num_at_last_check = 0

    async def read(self, client: JobSubmissionClient, job_id: str) -> None:
        """Write what is new until the job ends or the connection breaks."""
        position = 0
        async for text in client.tail_job_logs(job_id):
            new = text[max(0, self._num_written - position) :]
            position += len(text)
            if new:
                self._num_written = position
                self._write(new)

    def has_advanced(self) -> bool:
        """Whether new output came since the last call."""
        before, self._num_at_last_check = self._num_at_last_check, self._num_written
        return self._num_written > before


def _url(address: str) -> str:
    """The URL with its scheme: Ray takes `host:port` alone for the port where drivers connect."""
    url = address if "://" in address else f"http://{address}"
    if urlsplit(url).scheme not in PORTS or not urlsplit(url).hostname:
        problem = Problem("--address", f"{address!r} isn't an http or https URL.", URL_FIX)
        raise InputError("connection failed:", [problem])
    return url.rstrip("/")


def _check_port(url: str) -> None:
    """Fail within seconds where no server listens; Ray's client would wait for minutes."""
    parts = urlsplit(url)
    if os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return
    endpoint = (str(parts.hostname), parts.port or PORTS[parts.scheme])
    with socket.create_connection(endpoint, timeout=10):
        pass


def _token_error(error: str) -> str:
    """What is wrong with the token, in one sentence."""
    if error.startswith("Authentication required"):
        return "the cluster requires a token, and none was sent"
    if error.startswith("Authentication failed"):
        return "the cluster rejects the token that was sent"
    return error.partition(". ")[0]  # This machine has no token; what follows is advice.


def _without_password(url: str) -> str:
    """The URL without a user's name and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
