"""How teachers are compared, and how the outcome is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill_ray.config.base import Fraction, OpenFraction, Section

Level = Literal["low", "medium", "high", "very_high", "critical"]


class AuditConfig(Section):
    """Teachers are measured on held-out rows of the domain."""

    num_bins: PositiveInt = 15
    """Equal-width bins of the expected calibration error."""
    num_bootstrap: PositiveInt = 1000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    """Level of each interval."""
    num_text_rows: PositiveInt = 64
    """Packed validation rows per corpus on which token NLL is measured."""
    num_generated: NonNegativeInt = 200
    """The first questions of each set that are also answered freely, token by token: whether a
    teacher's answers have the right form shows in these alone."""
    min_actors: PositiveInt = 1
    """Actors to which the pool that scores models may shrink; the evaluation has the same pool."""
    max_actors: PositiveInt | None = None
    """Actors to which it may grow; `cluster.num_workers` by default. Each holds one model."""
    cpus_per_actor: PositiveFloat | None = None
    """May be a fraction; `cluster.cpus_per_worker` by default."""
    gpus_per_actor: NonNegativeFloat | None = None
    """May be a fraction, so that several models share an accelerator; `cluster.gpus_per_worker` by
    default."""
    questions_per_chunk: PositiveInt = 4000
    """More questions than that are shared out over several actors, which then each load the model;
    what is done of a part stays done when the run is killed."""
    max_attempts: PositiveInt = 3
    """Deaths of the process that scores a model, after which the model is given up."""


class Importances(Section):
    """How much each factor counts at one end of training."""

    learnability: Level
    """How easily this student follows the teacher (probe)."""
    accuracy_above_chance: Level
    """How good the teacher is at the tasks (audit)."""
    domain_knowledge: Level
    """How much the teacher knows of the domain's text (audit)."""
    calibration: Level
    """How far its confidence can be believed (audit)."""


class RankConfig(Section):
    """A stage-weighted score of every teacher."""

    early: Importances = Importances(
        learnability="critical",
        accuracy_above_chance="medium",
        domain_knowledge="high",
        calibration="medium",
    )
    """At progress 0, when the student knows nothing."""
    late: Importances = Importances(
        learnability="low",
        accuracy_above_chance="high",
        domain_knowledge="very_high",
        calibration="high",
    )
    """At progress 1, when the student has closed the gap to the best teacher."""
    num_draws: PositiveInt = 10000
    """Draws over seeds and examples from which the intervals are made."""
    confidence: OpenFraction = 0.95
    """Level of the intervals, and of calling a teacher the best."""
    min_size_ratio: NonNegativeFloat = 1.0
    """A teacher must have more parameters than this many times the student's, or it is marked as
    one that can't serve; 0 lets any serve."""
    min_valid_answers: Fraction = 0.5
    """A teacher of whose greedy answers a smaller share is one of the options is marked, too."""


class EvaluateConfig(Section):
    """The student against its initial state, its teachers and a fine-tune without a teacher."""

    num_bootstrap: PositiveInt = 2000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    """Level of each interval."""
    num_text_rows: PositiveInt = 64
    """Packed test rows per corpus on which NLL and KL are measured."""


class ReportConfig(Section):
    """The page that says which teacher, why, and whether it was worth it."""

    title: str | None = None
    """Defaults to the run's name."""
