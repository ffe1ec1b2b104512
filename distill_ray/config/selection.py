"""How teachers are compared, and how the outcome is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from distill_ray.config.base import OpenFraction, Section

Level = Literal["low", "medium", "high", "very_high", "critical"]


class AuditConfig(Section):
    """Teachers are measured on held-out rows of the domain."""

    bins: PositiveInt = 15
    """Equal-width bins of the expected calibration error."""
    bootstrap: PositiveInt = 1000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    text_rows: PositiveInt = 64
    """Packed validation rows per corpus on which token NLL is measured."""


class Importances(Section):
    """How much each factor counts at one end of training."""

    ease: Level
    """How easily this student follows the teacher (probe)."""
    peak: Level
    """How good the teacher is at the tasks (audit)."""
    domain: Level
    """How much the teacher knows of the domain's text (audit)."""
    calibration: Level
    """How far its confidence can be believed (audit)."""


class RankConfig(Section):
    """A stage-weighted score of every teacher."""

    early: Importances = Importances(
        ease="critical", peak="medium", domain="high", calibration="medium"
    )
    """At progress 0, when the student knows nothing."""
    late: Importances = Importances(ease="low", peak="high", domain="very_high", calibration="high")
    """At progress 1, when the student has closed the gap to the best teacher."""
    worst_ece: PositiveFloat = 0.2
    """Calibration error that scores 0; the noise floor scores 1."""
    draws: PositiveInt = 4000
    """Draws over seeds and examples from which the intervals are made."""
    confidence: OpenFraction = 0.95


class EvaluateConfig(Section):
    """The student against its initial state, its teachers and a fine-tune without a teacher."""

    bootstrap: PositiveInt = 2000
    confidence: OpenFraction = 0.95
    text_rows: PositiveInt = 64
    """Packed test rows per corpus on which NLL and KL are measured."""


class ReportConfig(Section):
    """The page that says which teacher, why, and whether it was worth it."""

    title: str | None = None
    """Defaults to the run's name."""
