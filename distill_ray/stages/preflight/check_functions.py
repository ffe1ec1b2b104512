"""Whether the functions that a config names are there, and take the options that it gives them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distill_ray.config.errors import Problem
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.run import RunConfig
from distill_ray.config.schedule import AtStepsSchedule, PluginSchedule
from distill_ray.core.divergence import DIVERGENCES
from distill_ray.core.plugins import PluginError, check_options, find
from distill_ray.core.weighting import WEIGHTINGS


def function_problems(where: str, name: str, options: Mapping[str, object]) -> Iterator[Problem]:
    """A function, ours or a user's own, which must be there and take these options."""
    try:
        check_options(find(name, {**DIVERGENCES, **WEIGHTINGS}), options)
    except PluginError as error:
        yield Problem(where, f"{error}.")


def objective_problems(where: str, objective: ObjectiveConfig) -> Iterator[Problem]:
    """The divergence and the weighting of an objective."""
    yield from function_problems(f"{where}.divergence", objective.divergence, objective.options)
    if objective.weighting is not None:
        yield from function_problems(f"{where}.weighting", objective.weighting, {})


def schedule_problems(cfg: RunConfig) -> Iterator[Problem]:
    """Steps that the schedule never reaches, and a schedule that is a user's own function."""
    schedule = cfg.distill.schedule
    steps = cfg.distill.num_steps(cfg.corpora.sequence_length)
    if isinstance(schedule, AtStepsSchedule) and schedule.steps[-1] >= steps:
        what = f"step {schedule.steps[-1]} is never reached, the run has {steps} steps."
        yield Problem(
            "distill.schedule.steps", what, "Raise distill.token_budget or lower the step."
        )
    if isinstance(schedule, PluginSchedule):
        yield from function_problems("distill.schedule", schedule.function, schedule.options)


def ensemble_problems(cfg: RunConfig) -> Iterator[Problem]:
    """A strategy of an ensemble that is a user's own function."""
    ensemble = cfg.distill.ensemble
    if ensemble is not None and ":" in ensemble.strategy:
        yield from function_problems(
            "distill.ensemble.strategy", ensemble.strategy, ensemble.options
        )
