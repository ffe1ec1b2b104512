"""The oracle of trainings by Ray: the plain loop, in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from distill_ray.engine.build import build_session
from distill_ray.engine.loop import distill
from distill_ray.stages.results.training_job import TrainingJob


def trained(training_job: TrainingJob) -> Any:
    """The session of a job at its end: no Ray, no ranks, no checkpoint."""
    session = build_session(
        replace(training_job.local_spec(), backend="plain"), torch.device("cpu")
    )
    for _ in distill(session):
        pass
    return session
