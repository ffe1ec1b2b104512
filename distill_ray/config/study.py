"""A study: the same teachers and student on several domains, and what comes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from distill_ray.config.base import Name, OpenFraction, Section


class StudyConfig(Section):
    """What every study has."""

    name: Name
    """The study's folder in the storage; each domain is a run below it."""
    storage: str = "runs"
    """Where artifacts go: a folder, or a URI such as `s3://bucket/runs`."""
    results: str = "results"
    """Folder that the page, its plots and the numbers are written into."""
    run: dict[str, Any]
    """A run's config without `name` and `storage`: what all domains share. Its `distill` section
    says how a student is fully trained, on one worker."""
    domains: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Domain → the rest of its run's config, or what it changes of the shared one."""
    untouched: tuple[Name, ...] = ()
    """Domains on which no choice was made."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=2)
    """Seeds of the full trainings; other orders of the rows than the probes'."""
    rungs: PositiveInt = 4
    """Points of their curves, at equal token spacing."""
    resamples: PositiveInt = 2000
    """For each interval."""
    confidence: OpenFraction = 0.95

    @model_validator(mode="after")
    def _untouched_are_domains(self) -> StudyConfig:
        if unknown := sorted({*self.untouched} - {*self.domains}):
            raise ValueError(f"untouched: {', '.join(unknown)} is no domain of this study")
        return self


class RankingStudy(StudyConfig):
    """Does the ranking predict the student? Every teacher teaches to the end, and is compared."""

    outcome: Literal["accuracy", "nll"] = "accuracy"
    """The final student's score on the test split, the mean over its tasks."""


STUDIES: Mapping[str, type[StudyConfig]] = {"ranking": RankingStudy}
"""`distill-ray study <name>` → its config."""
