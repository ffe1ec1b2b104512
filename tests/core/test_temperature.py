"""Temperature scaling: what it must keep, what it must not worsen, and whose questions it saw."""

import numpy as np
import pytest
from oracles import calibration as oracle

from distill_ray.core import calibration, temperature
from distill_ray.core.temperature import HIGHEST, LOWEST, cross_fitted, fit_temperature, scaled


def _questions(n=300, k=4, sharpness=1.0, seed=0):
    """Log-scores, and gold options drawn from softmax(log_scores / sharpness)."""
    rng = np.random.default_rng(seed)
    scores = sharpness * 1.5 * rng.standard_normal((n, k)) - 20
    p = calibration.normalise(scores / sharpness)
    return scores, np.array([rng.choice(k, p=row) for row in p])


@pytest.mark.parametrize("t", [LOWEST, 0.7, 1.0, 3.0, HIGHEST])
def test_scaling_keeps_the_order_of_options_and_sums_to_one(t):
    scores, _ = _questions()
    found = scaled(scores, t)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_array_equal(found.argmax(axis=1), scores.argmax(axis=1))
    sorted_by_score = np.take_along_axis(found, scores.argsort(axis=1), axis=1)
    assert (np.diff(sorted_by_score, axis=1) >= 0).all()


def test_scaling_divides_log_odds_by_the_temperature():
    found = scaled(np.log([[0.8, 0.2, 0.0001]]), 2.0)
    assert np.log(found[0, 0] / found[0, 1]) == pytest.approx(np.log(4) / 2)
    assert scaled(np.array([[0.0, -np.inf]]), 2.0).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 5.0])
def test_the_temperature_that_made_the_scores_is_found_again(sharpness):
    scores, gold = _questions(n=4000, sharpness=sharpness)
    assert fit_temperature(scores, gold) == pytest.approx(sharpness, rel=0.06)


def test_the_fitted_temperature_has_the_least_nll_of_a_fine_grid():
    scores, gold = _questions(n=40, sharpness=3.0)
    best = oracle.scaled_nll(scores, gold, fit_temperature(scores, gold))
    grid = [oracle.scaled_nll(scores, gold, t) for t in np.geomspace(LOWEST, HIGHEST, 300)]
    assert best <= min(grid) + 1e-9
    assert best > min(grid) - 1e-3


@pytest.mark.parametrize("seed", range(60))
def test_nll_on_the_fitting_set_is_never_worse_than_unscaled(seed):
    rng = np.random.default_rng(seed)
    n, k = rng.integers(1, 30), rng.integers(2, 6)
    scores = 10 ** rng.uniform(-4, 4) * rng.standard_normal((n, k))
    # From always right, over chance, to always wrong.
    best = scores.argmax(axis=1)
    gold = np.where(rng.random(n) < rng.choice([0, 0.3, 0.9, 1]), best, rng.integers(0, k, n))
    t = fit_temperature(scores, gold)
    assert LOWEST <= t <= HIGHEST
    unscaled = oracle.scaled_nll(scores, gold, 1.0)
    assert oracle.scaled_nll(scores, gold, t) <= unscaled * (1 + 1e-12) + 1e-15
    np.testing.assert_array_equal(scaled(scores, t).argmax(axis=1), best)


def test_where_the_search_fails_the_temperature_stays_at_one(monkeypatch):
    class Bad:
        x = np.log(15.0)

    scores, gold = _questions()
    monkeypatch.setattr(temperature, "minimize_scalar", lambda *_, **__: Bad)
    assert fit_temperature(scores, gold) == 1.0


def test_answers_that_are_all_right_or_all_last_put_the_temperature_at_its_bound():
    scores, _ = _questions()
    assert fit_temperature(scores, scores.argmax(axis=1)) == LOWEST
    assert fit_temperature(scores, scores.argmin(axis=1)) == HIGHEST


@pytest.mark.filterwarnings("error")
def test_the_temperature_is_one_where_none_is_better():
    tied = np.zeros((5, 3))
    assert fit_temperature(tied, np.zeros(5, np.int64)) == 1.0
    certain = np.array([[0.0, -np.inf]])
    assert fit_temperature(certain, np.array([0])) == 1.0
    assert fit_temperature(np.zeros((0, 3)), np.zeros(0, np.int64)) == 1.0


@pytest.mark.filterwarnings("error")
def test_an_impossible_gold_option_takes_no_part_and_an_impossible_other_one_does():
    scores, gold = _questions(n=50, sharpness=3.0)
    alone = fit_temperature(scores, gold)
    impossible = np.array([[-np.inf, -20.0, -21.0, -25.0]])
    both = np.vstack([scores, impossible])
    assert fit_temperature(both, np.append(gold, 0)) == alone
    assert fit_temperature(impossible, np.array([0])) == 1.0
    assert fit_temperature(both, np.append(gold, 3)) > alone


@pytest.mark.parametrize("folds", [2, 5])
def test_cross_fitted_probabilities_do_not_depend_on_their_own_groups_answers(folds):
    scores, gold = _questions(n=60, sharpness=3.0)
    groups = [f"group {i % 12}" for i in range(60)]
    before = cross_fitted(scores, gold, groups, folds)
    for name in sorted(set(groups)):
        own = np.array(groups) == name
        changed = np.where(own, (gold + 1) % 4, gold)
        after = cross_fitted(scores, changed, groups, folds)
        np.testing.assert_array_equal(after[own], before[own])
        assert (after[~own] != before[~own]).any()


def test_cross_fitted_probabilities_are_those_of_the_other_folds_temperature():
    scores, gold = _questions(n=40, sharpness=3.0)
    groups = ["a", "b"] * 20
    found = cross_fitted(scores, gold, groups, folds=5)  # Two groups, so two folds.
    for own in (slice(0, None, 2), slice(1, None, 2)):
        other = slice(1 - own.start, None, 2)
        t = fit_temperature(scores[other], gold[other])
        np.testing.assert_array_equal(found[own], scaled(scores[own], t))


def test_every_fold_has_as_many_groups_as_any_other_within_one(monkeypatch):
    fitted = []
    monkeypatch.setattr(temperature, "fit_temperature", lambda s, g: fitted.append(len(g)) or 1.0)
    scores, gold = _questions(n=13)
    cross_fitted(scores, gold, [str(i) for i in range(13)], folds=5)
    assert sorted(fitted) == [10, 10, 10, 11, 11]


def test_cross_fitting_lowers_the_ece_of_an_overconfident_model_on_questions_it_did_not_fit():
    scores, gold = _questions(n=2000, sharpness=4.0)
    groups = [str(i // 2) for i in range(2000)]

    def ece(p):
        return calibration.ece(p.max(axis=1), (p.argmax(axis=1) == gold) * 1.0)

    p = cross_fitted(scores, gold, groups)
    assert ece(calibration.normalise(scores)) > 0.2
    assert ece(p) < 2 * calibration.noise_floor(p.max(axis=1))


def test_a_single_group_stays_unscaled():
    scores, gold = _questions(sharpness=3.0)
    found = cross_fitted(scores, gold, ["all"] * len(gold))
    np.testing.assert_array_equal(found, calibration.normalise(scores))


def test_the_deal_of_groups_depends_on_the_seed_alone():
    scores, gold = _questions(n=60, sharpness=3.0)
    groups = [str(i) for i in range(60)]
    first = cross_fitted(scores, gold, groups, seed=1)
    np.testing.assert_array_equal(first, cross_fitted(scores, gold, groups, seed=1))
    assert (first != cross_fitted(scores, gold, groups, seed=2)).any()


def test_cross_fitting_refuses_a_single_fold():
    with pytest.raises(ValueError, match="2 folds or more, got 1"):
        cross_fitted(np.zeros((2, 2)), np.zeros(2, np.int64), ["a", "b"], folds=1)
