"""How teachers are compared, and how the outcome is judged."""

from __future__ import annotations

from typing import Annotated, Literal

from distill_ray.config.base import Section
from distill_ray.config.fingerprint import HOW_COMPUTED, NotInFingerprint
from distill_ray.config.numbers import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    OpenFraction,
    PositiveFloat,
    PositiveInt,
)

Level = Literal["low", "medium", "high", "very_high", "critical"]


class AuditConfig(Section):
    """How teachers are measured on held-out rows of the domain."""

    num_bins: PositiveInt = 15
    """Equal-width bins of the expected calibration error."""
    num_bootstrap: PositiveInt = 1000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    """Level of each interval."""
    num_text_rows: Annotated[PositiveInt, NotInFingerprint("in that of the scores")] = 64
    """Packed validation rows per corpus that measure token NLL."""
    num_generated: Annotated[NonNegativeInt, NotInFingerprint("in that of the scores")] = 200
    """First questions of each set that are also answered freely, token by token. They show whether
    a teacher's answers have the right form."""
    min_actors: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 1
    """Least actors of the pool that scores models. The evaluation has the same pool."""
    max_actors: Annotated[PositiveInt | None, NotInFingerprint(HOW_COMPUTED)] = None
    """Most actors of this pool. By default `cluster.num_workers`. Each holds one model."""
    cpus_per_actor: Annotated[PositiveFloat | None, NotInFingerprint(HOW_COMPUTED)] = None
    """CPU cores of each; may be a fraction. By default `cluster.cpus_per_worker`."""
    gpus_per_actor: Annotated[NonNegativeFloat | None, NotInFingerprint(HOW_COMPUTED)] = None
    """GPUs of each; may be a fraction, so that several models share one. By default
    `cluster.gpus_per_worker`."""
    questions_per_chunk: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 4000
    """More questions than this are divided over several actors, which each load the model. Finished
    chunks survive an interruption."""
    max_attempts: Annotated[PositiveInt, NotInFingerprint(HOW_COMPUTED)] = 3
    """A model is given up after this many crashes of the process that scores it."""


class Importances(Section):
    """How much each factor counts at one end of training."""

    learnability: Level
    """How easily this student follows the teacher, from the probes."""
    accuracy_above_chance: Level
    """How good the answers are that the teacher would teach, from audit and control."""
    domain_knowledge: Level
    """How much the teacher knows of the domain, from audit and control."""
    calibration: Level
    """How reliable the probabilities are that the teacher would teach, from audit and control."""


class RankConfig(Section):
    """How teachers are scored, for each phase of training."""

    early: Importances = Importances(
        learnability="critical",
        accuracy_above_chance="medium",
        domain_knowledge="high",
        calibration="medium",
    )
    """Importances at progress 0, when the student knows nothing."""
    late: Importances = Importances(
        learnability="low",
        accuracy_above_chance="high",
        domain_knowledge="very_high",
        calibration="high",
    )
    """Importances at progress 1, when the student has closed the gap to the best teacher."""
    num_draws: PositiveInt = 10000
    """Draws over seeds and examples that make the intervals."""
    confidence: OpenFraction = 0.95
    """Level of the intervals, and of calling a teacher the best."""
    min_size_ratio: NonNegativeFloat = 1.0
    """A teacher must have more parameters than this many times the student's, or it is marked and
    doesn't teach. 0 allows any."""
    min_valid_answers: Fraction = 0.5
    """A teacher is marked too if a smaller share of its free answers is one of the options."""


class EvaluateConfig(Section):
    """How the student is compared with its initial state, its teachers and the control."""

    num_bootstrap: PositiveInt = 2000
    """Resamples of each interval."""
    confidence: OpenFraction = 0.95
    """Level of each interval."""
    num_text_rows: PositiveInt = 64
    """Packed test rows per corpus that measure NLL and KL."""


class ReportConfig(Section):
    """The report."""

    title: str | None = None
    """Title of the page. By default, the run's name."""
