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


class ArmConfig(Section):
    """How the student is taught in one arm of a study."""

    begin: Literal["strongest", "early", "middle", "late"] = "strongest"
    """The teacher that begins: the most accurate one, or the ranking's first at this stage."""
    distill: dict[str, Any] = Field(default_factory=dict)
    """What it changes of the run's `distill` section; a schedule of another kind takes the place of
    that one."""


_ONE_TEACHER: dict[str, Any] = {
    "reassess": {"at_progress": []},
    "objective": {"weighting": None},
    "at_switch": {"optimizer": "keep", "warmup": 0.0},
}
_SCD = {**_ONE_TEACHER, "schedule": {"kind": "scd"}, "at_switch": {"optimizer": "reset"}}
_RANKED = {**_ONE_TEACHER, "schedule": {"kind": "ranked"}}
_ADAPTIVE = {"objective": {"weighting": "adaptive"}}
PLAIN, DEFAULT = "strongest", "default"
ARMS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"distill": {**_ONE_TEACHER, "schedule": {"kind": "fixed"}}},
    "equal_stages": {"distill": {**_SCD, "schedule": {"kind": "equal_stages"}}},
    "scd": {"distill": _SCD},
    "aw": {"distill": {**_ONE_TEACHER, "schedule": {"kind": "fixed"}, **_ADAPTIVE}},
    "scd-aw": {"distill": {**_SCD, **_ADAPTIVE}},
    "on_plateau": {"distill": {**_ONE_TEACHER, "schedule": {"kind": "on_plateau"}}},
    "ranked": {"begin": "early", "distill": _RANKED},
    "ranked-aw": {"begin": "early", "distill": {**_RANKED, **_ADAPTIVE}},
    DEFAULT: {"begin": "early"},
}
"""Arm → its `ArmConfig`. `strongest` is plain distillation from the most accurate teacher's best
checkpoint, `default` is what a run's own `distill` section says. Those of the papers stay with one
teacher; SCD resets the optimiser at each stage (arXiv 2601.10114), and ordered checkpoints are
treated like it, so that the two differ in nothing but the order."""


class ScheduleStudy(StudyConfig):
    """Is a schedule worth it? Every schedule against every static choice, with equal tokens."""

    arms: dict[Name, dict[str, Any] | None] = Field(default_factory=dict)
    """Arm → what it changes of the arm of that name (see `ARMS`), or a new one; null leaves it
    out."""
    default: Name = DEFAULT
    """The arm that is held against the best static choice."""


STUDIES: Mapping[str, type[StudyConfig]] = {"ranking": RankingStudy, "schedule": ScheduleStudy}
"""`distill-ray study <name>` → its config."""
