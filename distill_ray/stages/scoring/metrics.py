"""Sheets → figures with bootstrap intervals. n questions, K options, R resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.core import calibration
from distill_ray.core.intervals import Interval
from distill_ray.core.resampling import Resamples, equal_mass
from distill_ray.core.temperature import cross_fitted, fit_temperature, scaled
from distill_ray.stages.results.model_scores import ModelScores

Floats = NDArray[np.float64]

FLOOR_DRAWS = 50
"""Of a floor over all options, which takes K times as long as one over answers."""


@dataclass(frozen=True)
class MetricOptions:
    """How intervals are made."""

    bins: int
    resamples: int
    confidence: float

    def over(self, groups: Sequence[str], seed: int = 0) -> Resamples:
        """The resamples of these groups, which are the same for every model."""
        return _resamples(tuple(groups), self.resamples, self.confidence, seed)


@lru_cache(maxsize=16)
def _resamples(groups: tuple[str, ...], resamples: int, confidence: float, seed: int) -> Resamples:
    return Resamples(groups, resamples=resamples, confidence=confidence, seed=seed)


@dataclass(frozen=True)
class TaskMetrics:
    """A model's figures on one question set."""

    questions: int
    majority: float
    """Share of the most frequent answer: what a model without knowledge reaches."""
    accuracy: Interval
    """Of the likeliest option."""
    accuracy_by_length: Interval
    """Of the option that is likeliest per token."""
    accuracy_by_prior: Interval
    """Of the option that the question makes likelier the most (PMI_DC)."""
    nll: Interval
    """-log p(right option), normalised over the options, nats."""
    ece: Interval
    ece_floor: float
    """ECE of a perfectly calibrated model with these confidences and this many questions."""
    adaptive_ece: Interval
    """The same over bins of equal mass."""
    adaptive_ece_floor: float
    classwise_ece: Interval
    """Mean over options of each one's own ECE."""
    classwise_ece_floor: float
    brier: Interval
    auroc: Interval | None
    """P(a right answer is surer than a wrong one); None where all are right, or all wrong."""
    reliability: calibration.Reliability
    generated: int
    """Questions that were answered freely."""
    exact_match: Interval | None
    """Share of them whose greedy answer is the right one, token for token."""
    valid: Interval | None
    """Share of them whose greedy answer is one of the options: output format."""


def right_and_nll(sheet: ModelScores, question_set: str) -> Floats:
    """[2, n]: whether each question is answered right, and the right option's NLL, nats."""
    gold = sheet.gold(question_set)
    p = calibration.normalise(sheet.scores(question_set))
    return np.stack([calibration.right_each(p, gold), calibration.nll_each(p, gold)])


def task_metrics(
    sheet: ModelScores, question_set: str, *, bins: int, resamples: int, confidence: float
) -> TaskMetrics:
    """Figures of a set with bootstrap intervals over groups of questions."""
    figures = MetricOptions(bins, resamples, confidence)
    scores, gold = sheet.scores(question_set), sheet.gold(question_set)
    over = figures.over(sheet.groups(question_set))
    p = calibration.normalise(scores)
    lengths, prior = sheet.lengths(question_set), sheet.prior(question_set)
    return TaskMetrics(
        questions=len(gold),
        majority=float(np.bincount(gold).max() / len(gold)),
        accuracy=over.mean(calibration.right_each(scores, gold)),
        accuracy_by_length=over.mean(
            calibration.right_each(calibration.by_length(scores, lengths), gold)
        ),
        accuracy_by_prior=over.mean(
            calibration.right_each(calibration.by_prior(scores, prior), gold)
        ),
        nll=over.mean(calibration.nll_each(p, gold)),
        brier=over.mean(calibration.brier_each(p, gold)),
        **_calibration(p, gold, over, bins),
        **_written(sheet, question_set, figures),
    )


def _calibration(p: Floats, gold: Any, over: Resamples, bins: int) -> dict[str, Any]:
    sure, correct = p.max(axis=1), calibration.right_each(p, gold)
    options = p.shape[1]
    classwise = calibration.bin_index(p, bins) + bins * np.arange(options)
    return {
        **_ece(p, gold, over, bins),
        "adaptive_ece": over.calibration_error(equal_mass(sure, bins), sure, correct),
        "adaptive_ece_floor": calibration.noise_floor(sure, bins, metric=calibration.adaptive_ece),
        "classwise_ece": over.calibration_error(classwise, p, np.eye(options)[gold]),
        "classwise_ece_floor": calibration.noise_floor(
            p, bins, metric=calibration.classwise_ece, draws=FLOOR_DRAWS
        ),
        "auroc": over.auroc(sure, correct),
    }


def _ece(p: Floats, gold: Any, over: Resamples, bins: int) -> dict[str, Any]:
    sure, correct = p.max(axis=1), calibration.right_each(p, gold)
    return {
        "ece": over.calibration_error(calibration.bin_index(sure, bins), sure, correct),
        "ece_floor": calibration.noise_floor(sure, bins),
        "reliability": calibration.reliability(sure, correct, bins),
    }


def _written(sheet: ModelScores, question_set: str, figures: MetricOptions) -> dict[str, Any]:
    said = sheet.written(question_set)
    if not len(said):
        return {"generated": 0, "exact_match": None, "valid": None}
    over = figures.over(sheet.groups(question_set)[: len(said)])
    exact = (said == sheet.gold(question_set)[: len(said)]).astype(np.float64)
    return {
        "generated": len(said),
        "exact_match": over.mean(exact),
        "valid": over.mean((said >= 0).astype(np.float64)),
    }


@dataclass(frozen=True)
class Scaled:
    """What a temperature makes of a set's confidence; it changes no answer."""

    nll: Interval
    ece: Interval
    ece_floor: float
    reliability: calibration.Reliability


@dataclass(frozen=True)
class Scaling:
    """A model's temperature (Guo et al. 2017), and its question sets after scaling by it."""

    temperature: float
    """With the least NLL on the questions of all tasks together, each question counting once."""
    sets: dict[str, Scaled]
    """A task's questions are scaled by temperatures fitted on other groups (cross-fitting), those
    of shifted sets, on which nothing is fitted, by `temperature`."""


def scaling(sheet: ModelScores, tasks: Sequence[str], figures: MetricOptions) -> Scaling:
    """Fit a temperature on the tasks' questions, and measure what it does to every set.

    Args:
        sheet: of a model.
        tasks: the sets on which it is fitted.
        figures: bins and intervals.
    """
    fitted = [name for name in sheet.sets if name in tasks]
    if not fitted:
        return Scaling(1.0, {})
    scores, gold, groups = _pooled(sheet, fitted)
    temperature, honest = fit_temperature(scores, gold), cross_fitted(scores, gold, groups)
    probabilities, at = {}, 0
    for name in sheet.sets:
        own = sheet.scores(name)
        if name in fitted:
            probabilities[name] = honest[at : at + len(own), : own.shape[1]]
            at += len(own)
        else:
            probabilities[name] = scaled(own, temperature)
    return Scaling(
        temperature, {n: _scaled(sheet, n, p, figures) for n, p in probabilities.items()}
    )


def _pooled(sheet: ModelScores, names: Sequence[str]) -> tuple[Floats, Any, list[str]]:
    """Questions of several sets; options that a set hasn't got are impossible."""
    scores = [sheet.scores(name) for name in names]
    width = max(each.shape[1] for each in scores)
    padded = [
        np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=-np.inf)
        for each in scores
    ]
    groups = [f"{name}/{group}" for name in names for group in sheet.groups(name)]
    return np.concatenate(padded), np.concatenate([sheet.gold(n) for n in names]), groups


def _scaled(sheet: ModelScores, name: str, p: Floats, figures: MetricOptions) -> Scaled:
    gold, over = sheet.gold(name), figures.over(sheet.groups(name))
    nll = over.mean(calibration.nll_each(p, gold))
    return Scaled(nll=nll, **_ece(p, gold, over, figures.bins))


def drop(
    sheet: ModelScores, task: str, shifted: str, figures: MetricOptions
) -> dict[str, Interval]:
    """How much worse a model is on a shifted set than on its task: positive is worse.

    `accuracy` lost and `nll` gained. The two sets' groups are resampled independently.
    """
    overs = [figures.over(sheet.groups(name), seed) for seed, name in enumerate((task, shifted))]
    sheets = [right_and_nll(sheet, name) for name in (task, shifted)]
    found = {}
    for figure, sign, here, there in zip(("accuracy", "nll"), (1, -1), *sheets):
        draws = sign * (overs[0].means(here) - overs[1].means(there))
        value = sign * float(here.mean() - there.mean())
        found[figure] = overs[0].interval(value, draws)
    return found


def text_nll(
    sheet: ModelScores, corpora: Mapping[str, str], figures: MetricOptions
) -> dict[str, dict[str, Interval]]:
    """Token NLL of text with intervals over packed rows.

    Args:
        sheet: of a model.
        corpora: corpus → `domain` or `generic`.
        figures: intervals.

    Returns:
        `corpora`: corpus → NLL; `kinds`: `domain`, `generic` → NLL of all its tokens.
    """
    there = {name: kind for name, kind in corpora.items() if name in sheet.text}
    kinds = {kind: [n for n in there if there[n] == kind] for kind in there.values()}
    return {
        "corpora": {name: _over_rows(sheet, [name], figures) for name in there},
        "kinds": {kind: _over_rows(sheet, names, figures) for kind, names in kinds.items()},
    }


def _over_rows(sheet: ModelScores, names: Sequence[str], figures: MetricOptions) -> Interval:
    losses, tokens = (np.concatenate(c) for c in zip(*(sheet.row_losses(n) for n in names)))
    return figures.over([str(row) for row in range(len(losses))]).ratio(losses, tokens)
