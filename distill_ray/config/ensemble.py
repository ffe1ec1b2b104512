"""Several teachers at once."""

from __future__ import annotations

from pydantic import Field, model_validator

from distill_ray.config.base import Name, Section
from distill_ray.config.errors import did_you_mean
from distill_ray.config.numbers import FreeMapping

ENSEMBLE = "ensemble"
"""What a group of teachers is called where one teacher's name would stand."""
STRATEGY_NAMES = ("average", "random", "by_domain", "confidence")
"""The keys of `core.strategies.STRATEGIES`, known here without importing torch."""


class EnsembleConfig(Section):
    """Teachers that teach at the same time."""

    strategy: str = "average"
    """`average` of their probabilities; `random`, one drawn for each packed row; `by_domain`, one
    for each stream; `confidence`, by their losses on each sample (CA-MKD). Or
    `my_package.module:function`, see `core.strategies`."""
    teachers: tuple[Name, ...] | None = Field(default=None, min_length=2)
    """Names of the members. By default, all that the ranking lets teach. Teachers that couldn't be
    ranked are left out."""
    assignment: dict[str, Name] = Field(default_factory=dict)
    """Stream or task → its teacher, for `by_domain`. What isn't listed goes to the best teacher
    there: on a task by the NLL of what it would teach, on text by its own NLL."""
    options: FreeMapping = Field(default_factory=dict)
    """Keyword options of a strategy of your own."""

    @model_validator(mode="after")
    def _known(self) -> EnsembleConfig:
        strategy, own = self.strategy, ":" in self.strategy
        if not own and strategy not in STRATEGY_NAMES:
            hint = did_you_mean(strategy, STRATEGY_NAMES)
            raise ValueError(f"strategy: no {strategy!r}. {hint}".rstrip("."))
        if self.options and not own:
            raise ValueError(f"options: {strategy} takes none, got {', '.join(self.options)}")
        if self.assignment and strategy != "by_domain":
            raise ValueError(f"assignment is read by the strategy by_domain, and it is {strategy}")
        if self.teachers is not None:
            if len(set(self.teachers)) < len(self.teachers):
                raise ValueError(f"teachers: each once, got {list(self.teachers)}")
            for where, teacher in self.assignment.items():
                if teacher not in self.teachers:
                    hint = did_you_mean(teacher, self.teachers)
                    raise ValueError(f"assignment.{where}: {teacher!r} isn't one of them. {hint}")
        return self
