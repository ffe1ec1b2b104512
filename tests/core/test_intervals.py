"""Bootstrap intervals and the verdicts that they carry."""

import numpy as np
import pytest

from distill_ray.core.intervals import Interval, bootstrap, bootstrap_mean, verdict


def test_the_interval_of_a_mean_is_its_normal_interval_for_many_examples():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    found = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_nine_in_ten_intervals_of_ninety_per_cent_cover_the_truth():
    rng = np.random.default_rng(1)
    intervals = [
        bootstrap_mean(rng.normal(size=60), resamples=200, confidence=0.9, seed=i)
        for i in range(150)
    ]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    # Four standard errors of a share of 150.
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 150))


def test_more_confidence_is_a_wider_interval():
    values = np.random.default_rng(2).normal(size=50)
    narrow, wide = (bootstrap_mean(values, confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_a_constant_has_an_interval_without_width():
    assert bootstrap_mean(np.full(9, 0.25)) == Interval(0.25, 0.25, 0.25)


def test_one_seed_draws_the_same_examples_for_every_model():
    values = np.random.default_rng(3).normal(size=40)
    base, moved = bootstrap_mean(values, seed=5), bootstrap_mean(values + 7, seed=5)
    assert moved.low - base.low == pytest.approx(7)
    assert moved.high - base.high == pytest.approx(7)
    assert bootstrap_mean(values, seed=6) != base


def test_any_statistic_of_indices_can_be_resampled():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0])
    found = bootstrap(lambda i: float(np.median(values[i])), len(values))
    assert found.value == 3.0
    assert found.low in values
    assert found.high in values


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap_mean(np.array([]))


@pytest.mark.parametrize(
    ("low", "high", "excludes"),
    [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False), (0.0, 0.1, False)],
)
def test_an_interval_excludes_zero_when_both_ends_lie_on_one_side(low, high, excludes):
    assert Interval((low + high) / 2, low, high).excludes_zero() is excludes


@pytest.mark.parametrize(
    ("difference", "higher_is_better", "expected"),
    [
        (Interval(0.2, 0.1, 0.3), True, "better"),
        (Interval(0.2, 0.1, 0.3), False, "worse"),
        (Interval(-0.2, -0.3, -0.1), True, "worse"),
        (Interval(-0.2, -0.3, -0.1), False, "better"),
        (Interval(0.2, -0.1, 0.5), True, "no difference shown"),
    ],
)
def test_the_verdict_names_the_side_of_zero(difference, higher_is_better, expected):
    assert verdict(difference, higher_is_better=higher_is_better) == expected
