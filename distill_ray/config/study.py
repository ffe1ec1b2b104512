"""A study: the same teachers and student on several domains, and what comes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.mixing import Mix
from distill_ray.config.numbers import NonNegativeInt, OpenFraction, PositiveInt
from distill_ray.config.training import TrainingConfig
from distill_ray.config.uris import Uri


class StudyConfig(Section):
    """What every study has."""

    name: Name
    """The study's folder in the storage; each domain is a run below it."""
    storage: Uri = "runs"
    """Where artifacts go: a folder, or a URI such as `s3://bucket/runs`."""
    results: str = "results"
    """Folder that the page, its plots and the numbers are written into."""
    run: dict[str, Any]
    """A run's config without `name` and `storage`: what all domains share. Its `distill` section
    says how a student is trained fully, on one worker."""
    domains: dict[Name, dict[str, Any]] = Field(min_length=1)
    """Domain → the rest of its run's config, or what it changes of the shared one."""
    held_out_domains: tuple[Name, ...] = ()
    """Domains on which no choice was made."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0, 1, 2), min_length=2)
    """Seeds of the full trainings. They give other orders of the rows than the probes' seeds."""
    num_curve_points: PositiveInt = 4
    """Points of their curves, at equal token spacing."""
    num_bootstrap: PositiveInt = 2000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    """Level of each interval."""

    @model_validator(mode="after")
    def _held_out_are_domains(self) -> StudyConfig:
        if unknown := sorted({*self.held_out_domains} - {*self.domains}):
            raise ValueError(f"held_out_domains: {', '.join(unknown)} is no domain of this study")
        return self

    def groups(self, domains: Collection[str]) -> dict[str, list[str]]:
        """`all`, and if some are held out `chosen on` and `held out` → those of these domains.

        A group without any is left out.
        """
        by_group = {"all": list(domains)}
        if self.held_out_domains:
            by_group["chosen on"] = [name for name in domains if name not in self.held_out_domains]
            by_group["held out"] = list(self.held_out_domains)
        return {group: names for group, names in by_group.items() if names}


class RankingStudy(StudyConfig):
    """Does the ranking predict the student? Every teacher teaches to the end, and is compared."""

    outcome: Literal["accuracy", "nll"] = "accuracy"
    """The final student's score on the test split, the mean over its tasks."""


class ArmConfig(Section):
    """How the student is taught in one arm of a study."""

    first_teacher: Literal["most_accurate", "early", "middle", "late"] = "most_accurate"
    """The teacher that begins: the most accurate one, or the ranking's first at this stage."""
    distill: dict[str, Any] = Field(default_factory=dict)
    """What it changes of the run's `distill` section; a schedule of another kind takes the place of
    that one."""


_ONE_TEACHER: dict[str, Any] = {
    "reassess": {"at_progress": []},
    "objective": {"weighting": None},
    "on_switch": {"optimizer": "keep", "warmup_ratio": 0.0},
}
_SCD = {**_ONE_TEACHER, "schedule": {"kind": "scd"}, "on_switch": {"optimizer": "reset"}}
_RANKED = {**_ONE_TEACHER, "schedule": {"kind": "ranked"}}
_ADAPTIVE = {"objective": {"weighting": "adaptive"}}
PLAIN, DEFAULT = "most_accurate", "default"
ARMS: Mapping[str, Mapping[str, Any]] = {
    PLAIN: {"distill": {**_ONE_TEACHER, "schedule": {"kind": "fixed"}}},
    "equal_periods": {"distill": {**_SCD, "schedule": {"kind": "equal_periods"}}},
    "scd": {"distill": _SCD},
    "aw": {"distill": {**_ONE_TEACHER, "schedule": {"kind": "fixed"}, **_ADAPTIVE}},
    "scd-aw": {"distill": {**_SCD, **_ADAPTIVE}},
    "on_plateau": {"distill": {**_ONE_TEACHER, "schedule": {"kind": "on_plateau"}}},
    "ranked": {"first_teacher": "early", "distill": _RANKED},
    "ranked-aw": {"first_teacher": "early", "distill": {**_RANKED, **_ADAPTIVE}},
    DEFAULT: {"first_teacher": "early"},
}
"""Arm → its `ArmConfig`. `most_accurate` is plain distillation from that teacher's best
checkpoint, `default` is what a run's own `distill` section says. Those of the papers stay with one
teacher; SCD resets the optimiser at each period (arXiv 2601.10114), and ordered checkpoints are
treated like it, so that the two differ in nothing but the order."""


class ScheduleStudy(StudyConfig):
    """Is a schedule worth it? Every schedule against every static choice, with equal tokens."""

    arms: dict[Name, dict[str, Any] | None] = Field(default_factory=dict)
    """Arm → what it changes of the arm of that name, or a new arm. `null` leaves it out."""
    default: Name = DEFAULT
    """The arm that is compared with the best static choice."""


class TextArm(Section):
    """What is read in one arm."""

    name: Name
    """Name of the arm, in results."""
    mix: Mix
    """Shares of text, by tokens unless `distill.mixing` says otherwise."""


GENERIC_TO_DOMAIN: tuple[dict[str, Any], ...] = (
    {"name": "generic", "mix": {"generic": 1}},
    {"name": "mixed", "mix": {"generic": 7, "domain": 3}},
    {"name": "domain", "mix": {"domain": 1}},
)


class DomainDataStudy(StudyConfig):
    """Which text is worth distilling on, and should the teacher read the domain first?

    Every arm distils the student on text alone with equal tokens, from each of two teachers; then
    all students get the same fine-tune. `run.distill` says how they are distilled; a `probe` and
    shares of streams in `distill` aren't needed.
    """

    arms: tuple[TextArm, ...] = Field(
        default=tuple(TextArm.model_validate(arm) for arm in GENERIC_TO_DOMAIN), min_length=2
    )
    """What the student distils on, from the least of the domain to the most."""
    raw: Name = "raw"
    """The teacher that has read none of the domain."""
    adapted: Name = "adapted"
    """The same teacher after further recipes."""
    fine_tune: Name = "fine-tune"
    """Recipe that every student goes through at the end."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, data: Any) -> Any:
        """What a run must have and this study doesn't read."""
        if not isinstance(data, dict) or not isinstance(run := data.get("run"), dict):
            return data
        recipes = (run.get("adapt") or {}).get("recipes") or {}
        named = data.get("fine_tune", cls.model_fields["fine_tune"].default)
        recipe = recipes.get(named, next(iter(recipes.values()), None))
        last = (data.get("arms") or GENERIC_TO_DOMAIN)[-1]
        filled = dict(run)
        if isinstance(recipe, dict):
            read = {k: v for k, v in recipe.items() if k in TrainingConfig.model_fields}
            filled.setdefault("probe", {**read, "num_curve_points": 1})
        if isinstance(run.get("distill"), dict) and isinstance(last, dict):
            filled["distill"] = {"mix": last.get("mix"), **run["distill"]}
        return {**data, "run": filled}

    @model_validator(mode="after")
    def _arms_differ(self) -> DomainDataStudy:
        if len(self.mixes) < len(self.arms):
            raise ValueError(f"arms: names must differ, got {[arm.name for arm in self.arms]}")
        return self

    @property
    def mixes(self) -> dict[str, Mix]:
        """Arm → its mix, in order."""
        return {arm.name: arm.mix for arm in self.arms}


STUDIES: Mapping[str, type[StudyConfig]] = {
    "ranking": RankingStudy,
    "schedule": ScheduleStudy,
    "domain-data": DomainDataStudy,
}
"""`distill-ray study <name>` → its config."""
