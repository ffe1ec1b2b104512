"""How the teachers are tried: short distillations, and the race for more of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from distill_ray.config.base import Section
from distill_ray.config.fingerprint import HOW_COMPUTED, NotInFingerprint, OnlyWithTeacher
from distill_ray.config.numbers import REAL, Fraction, NonNegativeInt, PositiveInt
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import TrainingConfig, require_match


class RaceConfig(Section):
    """Further seeds for the teachers that may still lead, until one leads or the seeds run out."""

    confidence: Annotated[float, Field(gt=0.5, lt=1), REAL] = 0.9
    """Probability of leading at which the best teacher is separated."""
    max_seeds: PositiveInt = 6
    """Most seeds of a teacher, the first ones included."""
    progress: Fraction = 0.5
    """Progress of the student at which the ranking is looked at. 0.5 stands for a whole
    training."""


WHICH_PROBES = "which probes there are, not what one shows"


class ProbeConfig(TrainingConfig):
    """Short distillations, one for each teacher and seed."""

    objective: Annotated[ObjectiveConfig, OnlyWithTeacher()] = ObjectiveConfig(alpha=1.0)
    seeds: Annotated[tuple[NonNegativeInt, ...], NotInFingerprint(WHICH_PROBES)] = Field(
        default=(0, 1, 2), min_length=2
    )
    """The first seeds. Each is another order of the rows, the same for every teacher."""
    race: Annotated[RaceConfig | None, NotInFingerprint(WHICH_PROBES)] = RaceConfig()
    """How further seeds are spent. `null` stops after the first seeds."""
    num_curve_points: PositiveInt = 4
    """Points of a probe's curve, at equal token spacing."""
    num_questions: PositiveInt = 500
    """Validation questions per task that measure the task gain."""
    control_token_budget: Annotated[
        PositiveInt | None, NotInFingerprint("it is the control's token_budget")
    ] = None
    """Budget of the control probe, which trains the student on supervised rows without a teacher.
    By default, as many of those rows as the distillation will read, but no more tokens than all
    probes of the first seeds together."""
    num_gradients: Annotated[NonNegativeInt, NotInFingerprint("in that of the estimates")] = 64
    """Answers of each teacher on which the initial student's gradients are taken, for GRACE and the
    gradient norm. 0 skips them."""
    num_validation_rows: PositiveInt = 64
    """Packed validation rows per stream that measure a probe."""
    max_concurrent_trials: Annotated[PositiveInt | None, NotInFingerprint(HOW_COMPUTED)] = None
    """Trials at a time. By default `cluster.num_workers`."""

    @model_validator(mode="after")
    def _match_fits(self) -> ProbeConfig:
        require_match(self, self.objective)
        return self

    @model_validator(mode="after")
    def _seeds_differ(self) -> ProbeConfig:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must differ, got {list(self.seeds)}")
        return self
