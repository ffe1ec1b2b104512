"""What might predict a teacher's student: every number that is known before the distillation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from distill_ray.core.intervals import Interval
from distill_ray.stages.results.audit_table import AuditedModel

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Seen:
    """What is known of one teacher before its student is trained."""

    audit: AuditedModel
    """Its row of the audit."""
    probes: Sequence[Row]
    """Outcome of each of its probes."""
    estimates: Row
    """`rsr`, `surprisal`, `gradient_norm` and `grace` of its answers."""
    scores: Row
    """Stage of training → its score in the ranking."""
    taught: Sequence[Row]
    """`accuracy`, `nll` and `brier` of what it would teach, for each task."""


@dataclass(frozen=True)
class Predictor:
    """A number a teacher; the higher, the better its student is expected to be."""

    of: Callable[[Seen], float]
    needs: str
    """What has to be run for it: the `audit`, the `estimates`, the `probes`, the audit and the
    `control` probe, or all of them for the `ranking`."""
    what: str


def _task(seen: Seen, figure: str) -> float:
    intervals: list[Interval] = [getattr(task, figure) for task in seen.audit.tasks.values()]
    return fmean(interval.value for interval in intervals)


def _probes(seen: Seen, figure: str) -> float:
    return fmean(probe[figure] for probe in seen.probes)


def _lower(name: str) -> Callable[[Seen], float]:
    def negated(seen: Seen) -> float:
        value = seen.estimates.get(name)
        return -math.inf if value is None else -value

    return negated


def _taught(figure: str, sign: float = 1.0) -> Callable[[Seen], float]:
    return lambda seen: sign * fmean(task[figure] for task in seen.taught)


RANKING = "ranking"
RANKING_EARLY = "ranking, early"
ACCURACY = "teacher accuracy"

PREDICTORS: dict[str, Predictor] = {
    RANKING: Predictor(
        lambda s: s.scores["late"], "ranking", "its score for a student that converges"
    ),
    "ranking, middle": Predictor(lambda s: s.scores["middle"], "ranking", "its score half-way"),
    RANKING_EARLY: Predictor(lambda s: s.scores["early"], "ranking", "its score at the start"),
    "taught accuracy": Predictor(
        _taught("accuracy"), "control", "of α teacher + (1 - α) control, which knows the labels"
    ),
    "taught NLL": Predictor(_taught("nll", -1), "control", "of the same, negated"),
    "taught Brier": Predictor(_taught("brier", -1), "control", "of the same, negated"),
    "probe: task gain": Predictor(
        lambda s: _probes(s, "gain"), "probes", "fall of the answers' NLL in the probe"
    ),
    "probe: accuracy": Predictor(
        lambda s: _probes(s, "accuracy"), "probes", "the student's accuracy after the probe"
    ),
    "probe: KL moved": Predictor(
        lambda s: _probes(s, "kl_moved"), "probes", "nats of KL that are gone, on answers"
    ),
    "probe: KL removed": Predictor(
        lambda s: _probes(s, "kl_removed"), "probes", "share of the initial KL that is gone"
    ),
    ACCURACY: Predictor(lambda s: _task(s, "accuracy"), "audit", "on the task's questions"),
    "teacher NLL": Predictor(lambda s: -_task(s, "nll"), "audit", "of the right answers, negated"),
    "teacher ECE": Predictor(lambda s: -_task(s, "ece"), "audit", "on the questions, negated"),
    "teacher size": Predictor(lambda s: math.log(s.audit.parameters), "audit", "parameters"),
    "RSR": Predictor(_lower("rsr"), "estimates", "arXiv 2601.14249, negated"),
    "GRACE": Predictor(_lower("grace"), "estimates", "gradients' spread, negated"),
    "G-Norm": Predictor(_lower("gradient_norm"), "estimates", "gradient norm, negated"),
    "surprisal": Predictor(
        _lower("surprisal"), "estimates", "the student's NLL of the teacher's answers, negated"
    ),
}


def predictions(seen: Mapping[str, Seen]) -> dict[str, dict[str, float]]:
    """Predictor → teacher → number, finite: where a teacher has none, it comes after all others."""
    return {
        name: _unknown_last({teacher: float(predictor.of(row)) for teacher, row in seen.items()})
        for name, predictor in PREDICTORS.items()
    }


def _unknown_last(values: Mapping[str, float]) -> dict[str, float]:
    """A teacher that said nothing has no estimate, and without gradients nobody has theirs."""
    known = [value for value in values.values() if math.isfinite(value)]
    last = min(known, default=0.0) - 1.0
    return {name: value if math.isfinite(value) else last for name, value in values.items()}
