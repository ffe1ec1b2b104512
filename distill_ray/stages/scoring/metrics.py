"""Model scores → metrics with bootstrap intervals. n questions, K options, R resamples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from distill_ray.core import calibration
from distill_ray.core.intervals import Interval
from distill_ray.core.resampling import Resamples, equal_mass
from distill_ray.core.temperature import cross_fitted, fit_temperature, scaled
from distill_ray.stages.results.audit_table import ShiftDrop, TextNll
from distill_ray.stages.results.model_scores import ModelScores
from distill_ray.stages.results.question_metrics import ScaledMetrics, TaskMetrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLOOR_DRAWS = 50
"""Draws of a floor over all options, which takes K times as long as one over answers."""


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


def right_and_nll(model: ModelScores, question_set: str) -> Floats:
    """[2, n]: whether each question is answered right, and the right option's NLL, nats."""
    answer_index = model.answer_index(question_set)
    p = calibration.normalise(model.scores(question_set))
    return np.stack(
        [calibration.right_each(p, answer_index), calibration.nll_each(p, answer_index)]
    )


def task_metrics(
    model: ModelScores, question_set: str, *, bins: int, resamples: int, confidence: float
) -> TaskMetrics:
    """Metrics of a set with bootstrap intervals over groups of questions."""
    options = MetricOptions(bins, resamples, confidence)
    scores, answer_index = model.scores(question_set), model.answer_index(question_set)
    over = options.over(model.groups(question_set))
    p = calibration.normalise(scores)
    by_length = calibration.by_length(scores, model.lengths(question_set))
    by_prior = calibration.by_prior(scores, model.prior(question_set))
    sure, correct = p.max(axis=1), calibration.right_each(p, answer_index)
    classwise = calibration.bin_index(p, bins) + bins * np.arange(p.shape[1])
    generated = model.generated_index(question_set)
    exact = valid = None
    if len(generated):
        over_generated = options.over(model.groups(question_set)[: len(generated)])
        is_exact = generated == answer_index[: len(generated)]
        exact = over_generated.mean(is_exact.astype(np.float64))
        valid = over_generated.mean((generated >= 0).astype(np.float64))
    return TaskMetrics(
        questions=len(answer_index),
        majority=float(np.bincount(answer_index).max() / len(answer_index)),
        accuracy=over.mean(calibration.right_each(scores, answer_index)),
        accuracy_by_length=over.mean(calibration.right_each(by_length, answer_index)),
        accuracy_by_prior=over.mean(calibration.right_each(by_prior, answer_index)),
        nll=over.mean(calibration.nll_each(p, answer_index)),
        brier=over.mean(calibration.brier_each(p, answer_index)),
        adaptive_ece=over.calibration_error(equal_mass(sure, bins), sure, correct),
        adaptive_ece_floor=calibration.noise_floor(sure, bins, metric=calibration.adaptive_ece),
        classwise_ece=over.calibration_error(classwise, p, np.eye(p.shape[1])[answer_index]),
        classwise_ece_floor=calibration.noise_floor(
            p, bins, metric=calibration.classwise_ece, draws=FLOOR_DRAWS
        ),
        auroc=over.auroc(sure, correct),
        generated=len(generated),
        exact_match=exact,
        valid=valid,
        **_ece(p, answer_index, over, bins),
    )


class _Ece(TypedDict):
    ece: Interval
    ece_floor: float
    reliability: calibration.Reliability


def _ece(p: Floats, answer_index: Ints, over: Resamples, bins: int) -> _Ece:
    sure, correct = p.max(axis=1), calibration.right_each(p, answer_index)
    return {
        "ece": over.calibration_error(calibration.bin_index(sure, bins), sure, correct),
        "ece_floor": calibration.noise_floor(sure, bins),
        "reliability": calibration.reliability(sure, correct, bins),
    }


@dataclass(frozen=True)
class Scaling:
    """A model's temperature (Guo et al. 2017), and its question sets after scaling by it."""

    temperature: float
    """With the least NLL on the questions of all tasks together, each question counting once."""
    sets: dict[str, ScaledMetrics]
    """A task's questions are scaled by temperatures fitted on other groups (cross-fitting), those
    of shifted sets, on which nothing is fitted, by `temperature`."""


def scaling(model: ModelScores, tasks: Sequence[str], options: MetricOptions) -> Scaling:
    """Fit a temperature on the tasks' questions, and measure what it does to every set.

    Args:
        model: its scores.
        tasks: the sets on which it is fitted.
        options: bins and intervals.
    """
    fitted = [name for name in model.sets if name in tasks]
    if not fitted:
        return Scaling(1.0, {})
    by_task = [model.scores(name) for name in fitted]
    width = max(each.shape[1] for each in by_task)
    scores = np.concatenate(
        [
            # Options that a task doesn't have are impossible.
            np.pad(each, ((0, 0), (0, width - each.shape[1])), constant_values=-np.inf)
            for each in by_task
        ]
    )
    answer_index = np.concatenate([model.answer_index(name) for name in fitted])
    groups = [f"{name}/{group}" for name in fitted for group in model.groups(name)]
    temperature = fit_temperature(scores, answer_index)
    crossed = cross_fitted(scores, answer_index, groups)
    scaled_sets, start = {}, 0
    for name in model.sets:
        own = model.scores(name)
        if name in fitted:
            p = crossed[start : start + len(own), : own.shape[1]]
            start += len(own)
        else:
            p = scaled(own, temperature)
        own_index, over = model.answer_index(name), options.over(model.groups(name))
        nll = over.mean(calibration.nll_each(p, own_index))
        ece = _ece(p, own_index, over, options.bins)
        scaled_sets[name] = ScaledMetrics(nll=nll, **ece)
    return Scaling(temperature, scaled_sets)


def drop(model: ModelScores, task: str, shifted: str, options: MetricOptions) -> ShiftDrop:
    """Measure how much worse a model is on a shifted set than on its task: positive is worse.

    `accuracy` lost and `nll` gained. The two sets' groups are resampled independently.
    """
    overs = [options.over(model.groups(name), seed) for seed, name in enumerate((task, shifted))]
    on_task, on_shifted = (right_and_nll(model, name) for name in (task, shifted))
    intervals = []
    for sign, before, after in zip((1, -1), on_task, on_shifted):
        draws = sign * (overs[0].means(before) - overs[1].means(after))
        value = sign * float(before.mean() - after.mean())
        intervals.append(overs[0].interval(value, draws))
    return ShiftDrop(accuracy=intervals[0], nll=intervals[1])


def text_nll(model: ModelScores, corpora: Mapping[str, str], options: MetricOptions) -> TextNll:
    """Token NLL of text with intervals over packed rows.

    Args:
        model: its scores.
        corpora: corpus → `domain` or `generic`.
        options: intervals.
    """
    kind_of = {name: kind for name, kind in corpora.items() if name in model.text}
    names_of = {kind: [n for n in kind_of if kind_of[n] == kind] for kind in kind_of.values()}
    return TextNll(
        corpora={name: _over_rows(model, [name], options) for name in kind_of},
        kinds={kind: _over_rows(model, names, options) for kind, names in names_of.items()},
    )


def _over_rows(model: ModelScores, names: Sequence[str], options: MetricOptions) -> Interval:
    losses, tokens = (np.concatenate(c) for c in zip(*(model.row_losses(n) for n in names)))
    return options.over([str(row) for row in range(len(losses))]).ratio(losses, tokens)
