"""Batches of steps that were left out, as files of their artifact, and the end of a job by them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict

from distill_ray.config.errors import InputError, Problem
from distill_ray.engine.skipped_steps import TooManySkippedStepsError
from distill_ray.runtime.storage import Storage

FOLDER = "quarantine"
"""Below the job's artifact; one JSON file a micro-batch."""

REASON = "reason.json"
FIX = "Lower the learning rate, or look at these rows."


def quarantine_writer(artifact: Storage) -> Callable[[str, Mapping[str, object]], None]:
    """Make what writes the batch of a skipped step, under a name, into an artifact's folder."""

    def write(name: str, content: Mapping[str, object]) -> None:
        artifact.write_bytes(f"{FOLDER}/{name}.json", json.dumps(content).encode())

    return write


def record_stop_reason(
    state: Storage, job: str, error: TooManySkippedStepsError, place: str | None = None
) -> None:
    """Say why a job stopped, for the driver to read.

    The worker ends as if all were well: an error would be tried again, and come again.

    Args:
        state: a folder of this attempt alone.
        job: which one.
        error: what stopped it.
        place: where its batches are, unless they went with it.
    """
    rows = f" Their rows are in {place}." if place else ""
    leave_problem(state, Problem(job, f"{error}.{rows}", FIX))


def leave_problem(state: Storage, problem: Problem) -> None:
    """Say what ended a job, for the driver to read."""
    state.write_bytes(REASON, json.dumps(asdict(problem)).encode())


def raise_reason(state: Storage) -> None:
    """Raise what a worker left.

    Raises:
        InputError: something that another attempt wouldn't change.
    """
    if state.exists(REASON):
        problem = Problem(**json.loads(state.read_bytes(REASON)))
        raise InputError("training stopped:", [problem])
