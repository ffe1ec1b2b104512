"""Predictors of a teacher's student: every number that is known before the distillation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True)
class TeacherEvidence:
    """What is known of one teacher before its student is trained."""

    parameters: int
    tasks: Mapping[str, Mapping[str, float]]
    """Task → metric of the audit → its value."""
    probes: Sequence[Mapping[str, float]]
    """For each probe `gain`, `accuracy`, `kl_moved` and `kl_removed`."""
    estimates: Mapping[str, float | None]
    """`rsr`, `surprisal`, `gradient_norm` and `grace` of its answers."""
    scores: Mapping[str, float]
    """Phase of training → its score in the ranking."""
    taught: Sequence[Mapping[str, float]]
    """`accuracy`, `nll` and `brier` of what it would teach, for each task."""


@dataclass(frozen=True)
class Predictor:
    """A number for each teacher; the higher, the better the student it predicts."""

    predict: Callable[[TeacherEvidence], float]
    needs: str
    """What must run first: the `audit`, the `estimates`, the `probes`, the audit and the `control`
    probe, or all of them for the `ranking`."""
    what: str


def _audit(teacher: TeacherEvidence, metric: str) -> float:
    return fmean(task[metric] for task in teacher.tasks.values())


def _probe(metric: str) -> Callable[[TeacherEvidence], float]:
    return lambda teacher: fmean(probe[metric] for probe in teacher.probes)


def _negated_estimate(name: str) -> Callable[[TeacherEvidence], float]:
    def negated(teacher: TeacherEvidence) -> float:
        value = teacher.estimates.get(name)
        return -math.inf if value is None else -value

    return negated


def _taught(metric: str, sign: float = 1.0) -> Callable[[TeacherEvidence], float]:
    return lambda teacher: sign * fmean(task[metric] for task in teacher.taught)


RANKING = "ranking"
RANKING_EARLY = "ranking, early"
ACCURACY = "teacher accuracy"

PREDICTORS: dict[str, Predictor] = {
    RANKING: Predictor(
        lambda t: t.scores["late"], "ranking", "its score for a student that converges"
    ),
    "ranking, middle": Predictor(lambda t: t.scores["middle"], "ranking", "its score half-way"),
    RANKING_EARLY: Predictor(lambda t: t.scores["early"], "ranking", "its score at the start"),
    "taught accuracy": Predictor(
        _taught("accuracy"), "control", "of α teacher + (1 - α) control, which knows the labels"
    ),
    "taught NLL": Predictor(_taught("nll", -1), "control", "of the same, negated"),
    "taught Brier": Predictor(_taught("brier", -1), "control", "of the same, negated"),
    "probe: task gain": Predictor(
        _probe("gain"), "probes", "fall of the answers' NLL in the probe"
    ),
    "probe: accuracy": Predictor(
        _probe("accuracy"), "probes", "the student's accuracy after the probe"
    ),
    "probe: KL moved": Predictor(
        _probe("kl_moved"), "probes", "nats by which the KL fell, on answers"
    ),
    "probe: KL removed": Predictor(
        _probe("kl_removed"), "probes", "share by which the initial KL fell"
    ),
    ACCURACY: Predictor(lambda t: _audit(t, "accuracy"), "audit", "on the task's questions"),
    "teacher NLL": Predictor(lambda t: -_audit(t, "nll"), "audit", "of the right answers, negated"),
    "teacher ECE": Predictor(lambda t: -_audit(t, "ece"), "audit", "on the questions, negated"),
    "teacher size": Predictor(lambda t: math.log(t.parameters), "audit", "parameters"),
    "RSR": Predictor(_negated_estimate("rsr"), "estimates", "arXiv 2601.14249, negated"),
    "GRACE": Predictor(_negated_estimate("grace"), "estimates", "gradients' spread, negated"),
    "G-Norm": Predictor(_negated_estimate("gradient_norm"), "estimates", "gradient norm, negated"),
    "surprisal": Predictor(
        _negated_estimate("surprisal"),
        "estimates",
        "the student's NLL of the teacher's answers, negated",
    ),
}


def predictions(teachers: Mapping[str, TeacherEvidence]) -> dict[str, dict[str, float]]:
    """Predictor → teacher → a finite number; a teacher without one comes last.

    A teacher without answers has no estimates, and without gradients no teacher has those of
    gradients. One that answered a single prompt has no GRACE.
    """
    predicted = {}
    for name, predictor in PREDICTORS.items():
        values = {t: float(predictor.predict(evidence)) for t, evidence in teachers.items()}
        known = [value for value in values.values() if math.isfinite(value)]
        last = min(known, default=0.0) - 1.0
        predicted[name] = {t: v if math.isfinite(v) else last for t, v in values.items()}
    return predicted
