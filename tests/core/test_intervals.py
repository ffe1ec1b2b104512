"""Bootstrap intervals and the verdicts that they carry."""

import numpy as np
import pytest

from distill_ray.core.calibration import bin_index, ece
from distill_ray.core.intervals import Interval, verdict
from distill_ray.core.resampling import Resamples


def bootstrap_mean(values, groups, **options):
    return Resamples(groups, **options).mean(values)


def alone(values):
    """Every example a group of its own."""
    return [str(i) for i in range(len(values))]


def test_the_interval_of_a_mean_is_its_normal_interval_for_many_examples():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    found = bootstrap_mean(values, alone(values), resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_nine_in_ten_intervals_of_ninety_per_cent_cover_the_truth():
    rng = np.random.default_rng(1)
    intervals = [
        bootstrap_mean(rng.normal(size=60), alone(range(60)), resamples=200, confidence=0.9, seed=i)
        for i in range(150)
    ]
    covered = np.mean([i.low <= 0 <= i.high for i in intervals])
    # Four standard errors of a share of 150.
    assert covered == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 150))


def test_more_confidence_is_a_wider_interval():
    values = np.random.default_rng(2).normal(size=50)
    narrow, wide = (bootstrap_mean(values, alone(values), confidence=c) for c in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_a_constant_has_an_interval_without_width():
    assert bootstrap_mean(np.full(9, 0.25), alone(range(9))) == Interval(0.25, 0.25, 0.25)


def test_one_seed_draws_the_same_examples_for_every_model():
    values = np.random.default_rng(3).normal(size=40)
    base, moved = (bootstrap_mean(v, alone(v), seed=5) for v in (values, values + 7))
    assert moved.low - base.low == pytest.approx(7)
    assert moved.high - base.high == pytest.approx(7)
    assert bootstrap_mean(values, alone(values), seed=6) != base


def test_copies_in_one_group_narrow_nothing():
    values = np.random.default_rng(4).normal(size=80)
    once = bootstrap_mean(values, alone(values), seed=1)
    copied = bootstrap_mean(
        np.repeat(values, 5), [g for g in alone(values) for _ in range(5)], seed=1
    )
    assert copied.value == pytest.approx(once.value)
    width = once.high - once.low
    assert copied.high - copied.low == pytest.approx(width, rel=0.1)
    ignored = bootstrap_mean(np.repeat(values, 5), alone(range(400)), seed=1)
    assert ignored.high - ignored.low == pytest.approx(width / np.sqrt(5), rel=0.1)


def test_nine_in_ten_cluster_intervals_cover_the_truth_where_the_ordinary_ones_do_not():
    rng = np.random.default_rng(5)
    covered = {"cluster": 0, "ordinary": 0}
    for trial in range(120):
        effects = np.repeat(rng.normal(size=60), 6)
        values = effects + 0.3 * rng.normal(size=360)
        for kind, groups in (
            ("cluster", [str(i // 6) for i in range(360)]),
            ("ordinary", alone(values)),
        ):
            found = bootstrap_mean(values, groups, resamples=150, confidence=0.9, seed=trial)
            covered[kind] += found.low <= 0 <= found.high
    assert covered["cluster"] / 120 == pytest.approx(0.9, abs=4 * np.sqrt(0.9 * 0.1 / 120))
    assert covered["ordinary"] / 120 < 0.7


def test_a_centred_interval_of_the_ece_holds_its_estimate():
    rng = np.random.default_rng(6)
    for seed in range(20):
        sure = rng.uniform(0.3, 1, size=300)
        right = (rng.random(300) < sure).astype(float)
        resamples = Resamples(alone(sure), resamples=200, seed=seed)
        found = resamples.calibration_error(bin_index(sure, 15), sure, right)
        assert found.value == pytest.approx(ece(sure, right))
        assert found.low < found.value < found.high


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least one example"):
        bootstrap_mean(np.array([]), [])


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
