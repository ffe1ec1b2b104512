"""Who teaches when: schedules of teacher checkpoints, and what happens at a switch."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from distill_ray.config.base import Section
from distill_ray.config.numbers import REAL, WHOLE, Fraction, FreeMapping, OpenFraction, PositiveInt


class FixedSchedule(Section):
    """The teacher's best checkpoint from start to end."""

    kind: Literal["fixed"] = "fixed"


class AtStepsSchedule(Section):
    """The next checkpoint at each of the given steps."""

    kind: Literal["at_steps"] = "at_steps"
    steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    """Increasing step numbers. Each is the first step that the next checkpoint teaches."""

    @model_validator(mode="after")
    def _increasing(self) -> AtStepsSchedule:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"steps must increase, got {list(self.steps)}")
        return self


class EqualPeriodsSchedule(Section):
    """All checkpoints in order, each for an equal share of the steps."""

    kind: Literal["equal_periods"] = "equal_periods"


class OnPlateauSchedule(Section):
    """The next checkpoint when the student stops gaining on the current one."""

    kind: Literal["on_plateau"] = "on_plateau"
    window: Annotated[int, Field(ge=1, le=1000), WHOLE] = 200
    """Steps in each of the two windows that are compared."""
    min_gain: OpenFraction = 0.02
    """Move on when the relative fall in loss between the windows is smaller than this."""


class ScdSchedule(Section):
    """In each period the checkpoint that is closest to the student and to the best checkpoint."""

    kind: Literal["scd"] = "scd"
    num_periods: PositiveInt | None = None
    """Periods of equal length. `null` gives as many as the teacher has checkpoints."""


def _steps_or_share(value: float) -> float:
    if value < 1:
        return value
    if value != int(value):
        raise ValueError("1 and up are steps, in whole numbers; below 1 is a share of all steps")
    return int(value)


class RankedSchedule(Section):
    """Assesses candidates with short probes from the current student. It may change the teacher,
    the checkpoint, or nothing."""

    kind: Literal["ranked"] = "ranked"
    interval: Annotated[float, Field(gt=0), REAL, AfterValidator(_steps_or_share)] | None = 0.25
    """Steps between two assessments; below 1, a share of all steps. `null` waits until the loss
    stops falling."""
    window: Annotated[int, Field(ge=1, le=1000), WHOLE] = 100
    """Steps in each of the two windows that are compared, if `interval` is `null`."""
    min_gain: OpenFraction = 0.02
    """The loss has stopped falling when its relative fall between the windows is smaller than
    this."""
    probe_steps: PositiveInt = 8
    """Optimiser steps with each candidate. They are undone afterwards."""
    num_probe_rows: PositiveInt = 16
    """Packed validation rows per stream on which these steps are measured."""
    margin: Fraction = 0.02
    """Lead in score that another candidate needs to take over."""


ImportPath = Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
"""`my_package.module:function`."""


class PluginSchedule(Section):
    """A schedule of your own: a function like those of `core.schedules`."""

    kind: Literal["plugin"] = "plugin"
    function: ImportPath
    """`my_package.module:function`. Every worker must be able to import it."""
    options: FreeMapping = Field(default_factory=dict)
    """Its keyword-only arguments."""


Schedule = Annotated[
    FixedSchedule
    | AtStepsSchedule
    | EqualPeriodsSchedule
    | OnPlateauSchedule
    | ScdSchedule
    | RankedSchedule
    | PluginSchedule,
    Field(discriminator="kind"),
]
STEP_SCHEDULES = ("fixed", "at_steps", "equal_periods")
"""Those that read nothing but step numbers."""


def scheduling(schedule: Schedule) -> tuple[str, dict[str, Any]]:
    """Name or import path of a schedule's function, and its options."""
    if isinstance(schedule, PluginSchedule):
        return schedule.function, dict(schedule.options)
    return schedule.kind, schedule.model_dump(exclude={"kind"})


class ProgressConfig(Section):
    """How measurements of the student become its progress."""

    smoothing: Annotated[float, Field(ge=0, lt=1), REAL] = 0.0
    """Weight of the earlier progress in the new one. 0 uses the last measurement only."""
    monotone: bool = True
    """Progress never falls."""


class OnSwitchConfig(Section):
    """What happens to the optimiser when another checkpoint begins to teach."""

    optimizer: Literal["keep", "reset"] = "keep"
    """`reset` clears its moments, as SCD does."""
    warmup_ratio: Fraction = 0.0
    """Share of all steps over which the learning rate rises again to where it would be. 0 leaves
    it."""


class ReassessConfig(Section):
    """When the ranking is computed again with the student's progress. The teacher may change."""

    at_progress: tuple[OpenFraction, ...] = ()
    """Progress values at which it happens."""
    margin: Fraction = 0.02
    """Lead in score that another teacher needs to take over."""
