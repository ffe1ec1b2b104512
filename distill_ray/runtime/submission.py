"""A run as a job: its id, its request to Ray, its exit code. `jobs.py` sends the request."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from distill_ray import __version__
from distill_ray.config.errors import InputError, Problem, did_you_mean
from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.run import RunConfig
from distill_ray.config.uris import local_path
from distill_ray.runtime.working_dir import Package

STOPPED = 130
"""Exit code of a stopped job: that of an interrupted command."""
STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""Variables that Ray reads: it stops a job with SIGINT, and kills it a minute later."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


@dataclass(frozen=True)
class Attempt:
    """One job of a run."""

    id: str
    """Ray's submission id: `<run>-<attempt>`."""
    status: str
    stage: str = ""
    started: datetime | None = None
    ended: datetime | None = None
    driver_exit_code: int | None = None
    message: str = ""

    @property
    def run(self) -> str:
        """The run's name."""
        return self.id.rpartition("-")[0]

    @property
    def number(self) -> int:
        """Counted from 1."""
        return int(self.id.rpartition("-")[2])

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.status in ENDED

    @property
    def exit_code(self) -> int:
        """Exit code of a command that follows the job: the driver's own where Ray knows it."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED
        code = self.driver_exit_code or 1
        return 128 - code if code < 0 else code  # A signal's number, as in a shell.


def attempt_of(job: Any) -> Attempt | None:
    """One of Ray's `JobDetails` as an attempt; None if the job isn't a run's."""
    if not re.fullmatch(r".+-[1-9]\d*", job.submission_id or ""):
        return None
    return Attempt(
        id=job.submission_id,
        status=str(job.status),
        stage=(job.metadata or {}).get("stage", ""),
        started=_moment(job.start_time),
        ended=_moment(job.end_time),
        driver_exit_code=job.driver_exit_code,
        message=job.message or "",
    )


def next_attempt(attempts: Iterable[Attempt], run: str) -> str:
    """The id of a run's next attempt.

    Raises:
        InputError: an attempt of the run is in progress.
    """
    known = [attempt for attempt in attempts if attempt.run == run]
    for attempt in known:
        if not attempt.over:
            what = f"{attempt.id} is {attempt.status}."
            fix = f"See `distill-ray jobs logs {attempt.id}`; `distill-ray jobs stop {attempt.id}`."
            raise InputError("run already in progress:", [Problem("name", what, fix)])
    return f"{run}-{1 + max((attempt.number for attempt in known), default=0)}"


def find(attempts: Sequence[Attempt], named: str) -> Attempt:
    """The attempt with this id, or the last attempt of the run with this name.

    Raises:
        InputError: there is none.
    """
    by_id = [attempt for attempt in attempts if attempt.id == named]
    of_run = sorted((a for a in attempts if a.run == named), key=lambda a: a.number)
    if not by_id and not of_run:
        hint = did_you_mean(named, {name for a in attempts for name in (a.run, a.id)})
        raise InputError("job not found:", [Problem("NAME", f"no run or job {named!r}.", hint)])
    return (by_id or of_run)[-1]


@dataclass(frozen=True)
class Submission:
    """A run that is about to be submitted."""

    cfg: RunConfig
    config: str
    """The config's path in the working directory."""
    command: str
    """`run`, or a stage."""
    flags: tuple[str, ...]
    """The command's options: `--set`, `--storage`, ..."""
    package: Package

    def request(self, job_id: str) -> dict[str, Any]:
        """Arguments of `JobSubmissionClient.submit_job`, without this machine's variables."""
        job = self.cfg.cluster.job
        environment: dict[str, Any] = {
            "working_dir": str(self.package.root),
            "excludes": list(self.package.excludes),
            "env_vars": dict(STOP),
        }
        if job.pip:
            environment["pip"] = list(job.pip)
        return {
            "entrypoint": self.entrypoint(),
            "submission_id": job_id,
            "runtime_env": environment,
            "metadata": self.metadata(job_id),
            "entrypoint_num_cpus": 0,
            "entrypoint_label_selector": dict(job.node_labels) or None,
        }

    def entrypoint(self) -> str:
        """The shell command: the same as on this machine, with the code that the cluster has."""
        words = ["python", "-m", "distill_ray", self.command, self.config, *self.flags]
        return shlex.join(words)

    def metadata(self, job_id: str) -> dict[str, str]:
        """What Ray shows of the job to everyone who may list jobs."""
        return {
            "run": self.cfg.name,
            "attempt": job_id.rpartition("-")[2],
            "stage": self.command,
            "config": fingerprint(self.cfg),
            "version": __version__,
        }


def storage_problems(cfg: RunConfig, root: Path) -> Iterator[Problem]:
    """A storage that is lost when the job ends.

    Args:
        cfg: the config.
        root: the working directory, which is uploaded.
    """
    local = local_path(cfg.storage)
    if local is not None and not local.is_absolute():
        what = (
            f"{cfg.storage} is relative to Ray's copy of the working directory, and is deleted with"
            " it."
        )
        fix = f"Give --storage: a URI (s3://bucket/{cfg.name}), a folder that all nodes share, or, "
        fix += f"for a cluster on this machine, {root / local}."
        yield Problem("storage", what, fix)


def _moment(milliseconds: int | None) -> datetime | None:
    return datetime.fromtimestamp(milliseconds / 1000, timezone.utc) if milliseconds else None
