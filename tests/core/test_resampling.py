"""Intervals from products of counts, against the same bootstrap one resample at a time."""

import numpy as np
import pytest
from oracles.plain_bootstrap import bootstrap, bootstrap_mean
from sklearn.metrics import roc_auc_score

from distill_ray.core import calibration
from distill_ray.core.resampling import Resamples, equal_mass

BINS = 7
OPTIONS = {"resamples": 60, "confidence": 0.9}


def _sample(n=90, options=4, groups=30, seed=0):
    rng = np.random.default_rng(seed)
    p = calibration.normalise(2 * rng.normal(size=(n, options)))
    gold = np.array([rng.choice(options, p=row) for row in p])
    return p, gold, [f"g{i}" for i in rng.integers(0, groups, size=n)]


def _sure(p, gold):
    return p.max(axis=1), (p.argmax(axis=1) == gold).astype(float)


def _equal(found, expected):
    for end in ("value", "low", "high"):
        assert getattr(found, end) == pytest.approx(getattr(expected, end), abs=1e-12)


def test_a_mean_s_interval_is_the_bootstrap_s():
    p, gold, groups = _sample()
    values = calibration.nll_each(p, gold)
    found = Resamples(groups, seed=3, **OPTIONS).mean(values)
    _equal(found, bootstrap_mean(values, groups, seed=3, **OPTIONS))


def test_a_ratio_s_interval_is_the_bootstrap_s():
    rng = np.random.default_rng(1)
    losses, tokens = rng.random(40), rng.integers(1, 9, size=40).astype(float)
    groups = [str(i // 3) for i in range(40)]
    expected = bootstrap(lambda i: losses[i].sum() / tokens[i].sum(), groups, **OPTIONS)
    _equal(Resamples(groups, **OPTIONS).ratio(losses, tokens), expected)


def test_a_calibration_error_s_interval_is_the_bootstrap_s():
    p, gold, groups = _sample()
    sure, correct = _sure(p, gold)
    expected = bootstrap(
        lambda i: calibration.ece(sure[i], correct[i], BINS), groups, centre=True, **OPTIONS
    )
    index = calibration.bin_index(sure, BINS)
    _equal(Resamples(groups, **OPTIONS).calibration_error(index, sure, correct), expected)


def test_a_classwise_error_s_interval_is_the_bootstrap_s():
    p, gold, groups = _sample()
    expected = bootstrap(
        lambda i: calibration.classwise_ece(p[i], gold[i], BINS), groups, centre=True, **OPTIONS
    )
    index = calibration.bin_index(p, BINS) + BINS * np.arange(p.shape[1])
    found = Resamples(groups, **OPTIONS).calibration_error(index, p, np.eye(p.shape[1])[gold])
    _equal(found, expected)


@pytest.mark.parametrize("digits", [9, 1], ids=["distinct", "ties"])
def test_bins_of_equal_mass_are_those_of_the_adaptive_error(digits):
    p, gold, groups = _sample()
    sure, correct = _sure(p, gold)
    sure = sure.round(digits)
    found = Resamples(groups, **OPTIONS).calibration_error(equal_mass(sure, BINS), sure, correct)
    assert found.value == pytest.approx(calibration.adaptive_ece(sure, correct, BINS))
    assert found.low < found.value < found.high


@pytest.mark.parametrize("digits", [9, 1], ids=["distinct", "ties"])
def test_an_auroc_s_interval_is_the_bootstrap_s(digits):
    p, gold, groups = _sample()
    sure, correct = _sure(p, gold)
    sure = sure.round(digits)
    expected = bootstrap(lambda i: roc_auc_score(correct[i], sure[i]), groups, **OPTIONS)
    _equal(Resamples(groups, **OPTIONS).auroc(sure, correct), expected)


def test_without_a_pair_there_is_no_auroc_and_a_resample_without_one_has_no_say():
    sure = np.array([0.3, 0.5, 0.9])
    over = Resamples(["a", "b", "c"], resamples=200)
    assert over.auroc(sure, np.ones(3)) is None
    found = over.auroc(sure, np.array([0.0, 1.0, 1.0]))
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_blocks_of_resamples_give_what_the_whole_gives(monkeypatch):
    p, gold, groups = _sample()
    sure, correct = _sure(p, gold)
    whole = Resamples(groups, **OPTIONS)
    expected = whole.auroc(sure, correct), whole.mean(sure)
    monkeypatch.setattr("distill_ray.core.resampling._BLOCK", 150)
    _equal(whole.auroc(sure, correct), expected[0])
    _equal(whole.mean(sure), expected[1])


def test_no_example_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        Resamples([])
