"""A model's metrics on one question set, as result files hold them."""

from __future__ import annotations

from distill_ray.core.calibration import Reliability
from distill_ray.core.intervals import Interval
from distill_ray.stages.results.record import Record


class TaskMetrics(Record):
    """A model's metrics on one question set."""

    questions: int
    majority: float
    """Share of the most frequent answer: what a model without knowledge reaches."""
    accuracy: Interval
    """Accuracy of the likeliest option."""
    accuracy_by_length: Interval
    """Accuracy of the option that is likeliest per token."""
    accuracy_by_prior: Interval
    """Accuracy of the option that the question makes likelier the most (PMI_DC)."""
    nll: Interval
    """-log p(right option), normalised over the options, nats."""
    ece: Interval
    ece_floor: float
    """ECE of a perfectly calibrated model with these confidences and this many questions."""
    adaptive_ece: Interval
    """ECE over bins of equal mass."""
    adaptive_ece_floor: float
    classwise_ece: Interval
    """Mean over options of each one's own ECE."""
    classwise_ece_floor: float
    brier: Interval
    auroc: Interval | None
    """P(a right answer is surer than a wrong one); None where all are right, or all wrong."""
    reliability: Reliability
    generated: int
    """Questions that were answered freely."""
    exact_match: Interval | None
    """Share of these questions whose greedy answer is the right one, token for token."""
    valid: Interval | None
    """Share of these questions whose greedy answer is one of the options: output format."""


class ScaledMetrics(Record):
    """A model's metrics on a question set after temperature scaling, which changes no answer."""

    nll: Interval
    ece: Interval
    ece_floor: float
    reliability: Reliability


class AuditedMetrics(TaskMetrics):
    """A model's metrics on one question set in the audit."""

    scaled: ScaledMetrics | None
    """After scaling by a temperature; None for a set without one."""
