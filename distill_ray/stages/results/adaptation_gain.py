"""What adaptation did for each trained teacher."""

from __future__ import annotations

from distill_ray.core.intervals import Interval
from distill_ray.stages.results.record import Record

ADAPTATION_GAIN = "gain.json"


class AdaptationGain(Record):
    """Adapted minus base model, question by question, over all tasks."""

    accuracy: Interval
    nll: Interval
    """-log p(right option), normalised over the options, in nats: below 0 is better."""
    text: dict[str, tuple[float, float]]
    """Corpus → token NLL of the base model and of the adapted one, nats."""
    adapted_is_better: bool
    """Whether the NLL's interval lies below 0."""


class AdaptationGains(Record):
    """`gain.json`."""

    teachers: dict[str, AdaptationGain]
