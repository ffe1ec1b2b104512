"""What the student is pulled towards."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill_ray.config.base import Section
from distill_ray.config.errors import did_you_mean
from distill_ray.config.numbers import Float, Fraction, PositiveFloat, PositiveInt

DIVERGENCE_NAMES = (
    "forward_kl",
    "reverse_kl",
    "jsd",
    "skew_forward_kl",
    "skew_reverse_kl",
    "adaptive_kl",
    "total_variation",
)
"""The keys of `core.divergence.DIVERGENCES`, known here without importing torch."""


WEIGHTING_NAMES = ("adaptive",)
"""The keys of `core.weighting.WEIGHTINGS`."""


Layers = Literal["last", "uniform"] | dict[PositiveInt, PositiveInt]
"""`last`: the last layer of both. `uniform`: every layer of the student, with the teacher's at
the same relative depth. Or layer of the student → layer of the teacher, counted from 1."""


class HiddenMatch(Section):
    """Pulls hidden states of inner layers towards the teacher's."""

    weight: PositiveFloat = 1.0
    """Weight beside the rest of the loss."""
    layers: Annotated[Layers, Field(min_length=1)] = "last"
    """Which layers are compared: `last`, `uniform`, or student layer → teacher layer."""
    distance: Literal["cosine", "mse"] = "cosine"
    """`cosine`, or `mse` over the dimensions."""
    projection: bool = True
    """Compare through a matrix that is learned with the student and then dropped. Without it, both
    hidden sizes must be equal."""


class AttentionMatch(Section):
    """Pulls attention maps, averaged over their heads, towards the teacher's."""

    weight: PositiveFloat = 1.0
    """Weight beside the rest of the loss."""
    layers: Annotated[Layers, Field(min_length=1)] = "last"
    """Which layers are compared: `last`, `uniform`, or student layer → teacher layer."""
    distance: Literal["kl", "squared_error"] = "kl"
    """`kl`, or `squared_error` summed over the keys."""


class MatchConfig(Section):
    """Which inner layers are matched; none by default."""

    hidden: HiddenMatch | None = None
    attention: AttentionMatch | None = None

    @property
    def wanted(self) -> bool:
        """Whether anything is."""
        return self.hidden is not None or self.attention is not None


class ObjectiveConfig(Section):
    """What the student is trained towards."""

    divergence: str = "forward_kl"
    """One of these (docs/how-to/objective.md describes them), or `my_package.module:function`."""
    options: dict[str, Float] = Field(default_factory=dict)
    """Keyword options of the divergence, such as `beta` of jsd, or `skew`."""
    temperature: PositiveFloat = 1.0
    """τ softens student and teacher; the loss is multiplied by τ²."""
    alpha: Fraction = 0.9
    """Share of the divergence to the teacher. The rest is cross-entropy on the data."""
    calibrate: bool = False
    """Divide each teacher's logits by the temperature that the audit fitted for it (Guo et al.
    2017). With `temperature` τ and a teacher's T it acts as τ·T on the teacher's side only."""
    weighting: str | None = None
    """`adaptive` weighs each sample by the losses of a frozen student, fine-tuned without a
    teacher, and of the teacher. The weight replaces alpha. Or `my_package.module:function`."""
    match: MatchConfig = MatchConfig()
    """Losses on inner layers, added to the others. The teacher must be colocated."""

    @model_validator(mode="after")
    def _known_divergence(self) -> ObjectiveConfig:
        if ":" not in self.divergence and self.divergence not in DIVERGENCE_NAMES:
            hint = did_you_mean(self.divergence, DIVERGENCE_NAMES)
            raise ValueError(f"divergence: no {self.divergence!r}. {hint}".rstrip("."))
        weighting = self.weighting
        if weighting is not None and ":" not in weighting and weighting not in WEIGHTING_NAMES:
            hint = did_you_mean(weighting, WEIGHTING_NAMES)
            raise ValueError(f"weighting: no {weighting!r}. {hint}".rstrip("."))
        return self
