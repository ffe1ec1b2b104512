"""Which streams a training reads, in which shares, and how the shares change."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill_ray.config.base import Section
from distill_ray.config.numbers import OpenFraction, PositiveFloat

Mix = Annotated[dict[str, PositiveFloat], Field(min_length=1)]
"""Stream name → share; shares are normalised. Streams are the corpora's names, and
`<task>.labelled` and `<task>.prompts`."""


class MixChange(Section):
    """Another mix, from some step on."""

    at: OpenFraction
    """Share of the steps that are done when it begins."""
    mix: Mix
    """Share of each stream from there on."""


class MixingConfig(Section):
    """What the shares of a mix count, and how they change during training."""

    by: Literal["tokens", "rows"] = "tokens"
    """Shares are of tokens, without padding, or of rows. Either way, each stream is within one row
    of its share at every step."""
    changes: tuple[MixChange, ...] = ()
    """The mixes that follow the first one."""
    interpolation: Literal["step", "linear"] = "step"
    """Shares jump at a change, or move in a straight line from one mix to the next."""

    @model_validator(mode="after")
    def _in_order(self) -> MixingConfig:
        places = [change.at for change in self.changes]
        if places != sorted(set(places)):
            raise ValueError(f"changes: `at` must increase, got {places}")
        if self.interpolation == "linear" and not self.changes:
            raise ValueError("interpolation linear needs changes to move to, and there are none")
        return self
