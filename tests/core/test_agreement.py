"""Do predictions order outcomes: correlations, their chance, regret, ceiling, interval."""

import numpy as np
import pytest
from oracles import agreement as oracle
from scipy import stats

from distill_ray.core.agreement import agreement, ceiling, mean_interval


def named(values):
    return {f"t{i}": float(v) for i, v in enumerate(values)}


def scores(seed, teachers, ties=False):
    rng = np.random.default_rng(seed)
    draw = (lambda: rng.integers(0, 4, teachers)) if ties else (lambda: rng.normal(size=teachers))
    return draw(), draw()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_correlations_are_those_of_the_definitions(seed, ties):
    x, y = scores(seed, 7, ties)
    found = agreement(named(x), named(y))
    assert found.spearman == pytest.approx(oracle.spearman(x, y))
    assert found.kendall == pytest.approx(oracle.tau_b(x, y))
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_is_the_share_of_all_orders_that_agree_as_well(seed, ties):
    x, y = scores(seed, 5, ties)
    assert agreement(named(x), named(y)).p_value == pytest.approx(oracle.p_value(x, y), abs=1e-12)


@pytest.mark.parametrize(
    ("order", "rho", "p_value"),
    [
        # The last correlation with p < .05 of 5, 6 and 8 teachers, and the next lower one.
        ((0, 1, 2, 3, 4), 1.0, 2 / 120),
        ((1, 0, 2, 3, 4), 0.9, 10 / 120),
        ((1, 0, 2, 4, 3, 5), 0.886, 24 / 720),
        ((2, 0, 1, 3, 4, 5), 0.829, 42 / 720),
        ((1, 3, 0, 5, 4, 2, 6, 7), 0.738, 1848 / 40320),
        ((1, 0, 2, 5, 4, 6, 7, 3), 0.714, 2322 / 40320),
    ],
)
def test_few_teachers_need_a_high_correlation_to_be_significant(order, rho, p_value):
    found = agreement(named(order), named(range(len(order))))
    assert found.spearman == pytest.approx(rho, abs=5e-4)
    assert found.p_value == pytest.approx(p_value, abs=5e-5)


def test_many_teachers_get_a_seeded_p_value_close_to_that_of_the_t_approximation():
    x, y = scores(3, 14)
    y = y + 0.5 * x
    found = agreement(named(x), named(y))
    assert found.p_value == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)
    assert found == agreement(named(x), named(y))
    perfect = agreement(named(range(14)), named(range(14)))
    assert perfect.p_value == pytest.approx(1 / 40321)


def test_chance_predictors_are_significant_as_often_as_they_should_be():
    p = [agreement(named(x), named(y)).p_value for x, y in (scores(s, 6) for s in range(200))]
    # P(p < .05) of 6 teachers is .0333, that of |rho| >= .886.
    assert np.mean(np.less(p, 0.05)) == pytest.approx(0.0333, abs=4 * np.sqrt(0.0333 / 200))


def test_the_regret_is_what_the_chosen_teacher_lacks_to_the_best():
    found = agreement({"a": 3.0, "b": 2.0, "c": 1.0}, {"a": 0.70, "b": 0.80, "c": 0.60})
    assert (found.top_predicted, found.best) == ("a", "b")
    assert found.regret == pytest.approx(0.10)
    assert found.regret_share == pytest.approx(0.5)


def test_the_right_choice_costs_nothing_whatever_the_order_of_the_rest():
    found = agreement({"a": 3.0, "b": 1.0, "c": 2.0}, {"a": 0.9, "b": 0.8, "c": 0.1})
    assert (found.regret, found.regret_share) == (0.0, 0.0)
    assert found.spearman == 0.5


def test_equal_predictions_choose_the_first_by_name_in_any_order_of_teachers():
    outcome = {"c": 1.0, "b": 3.0, "a": 2.0}
    for names in ("abc", "cba"):
        found = agreement({n: {"a": 0, "b": 1, "c": 1}[n] for n in names}, outcome)
        assert found.top_predicted == "b"


def test_the_order_of_the_teachers_changes_nothing():
    x, y = (named(v) for v in scores(5, 6))
    assert agreement(dict(reversed(x.items())), y) == agreement(x, y)


@pytest.mark.parametrize("constant", ["predicted", "outcome"])
def test_a_constant_side_agrees_with_no_order(constant):
    sides = {"predicted": named(range(5)), "outcome": named(range(5)), constant: named([0.3] * 5)}
    found = agreement(**sides)
    assert (found.spearman, found.kendall, found.p_value) == (0.0, 0.0, 1.0)
    assert found.regret_share == (1.0 if constant == "predicted" else 0.0)


def test_one_teacher_is_chosen_without_regret():
    found = agreement({"a": 1.0}, {"a": 2.0})
    assert (found.top_predicted, found.regret, found.spearman, found.p_value) == (
        "a",
        0.0,
        0.0,
        1.0,
    )


@pytest.mark.parametrize(
    ("predicted", "outcome", "message"),
    [
        ({}, {}, "at least one teacher"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}, "only measured: b, c"),
        ({"a": np.nan, "b": 2.0}, {"a": 1.0, "b": 2.0}, "prediction of a is not finite"),
        ({"a": 1.0, "b": 2.0}, {"a": 1.0, "b": np.inf}, "outcome of b is not finite"),
    ],
)
def test_sides_that_cannot_be_compared_are_refused(predicted, outcome, message):
    with pytest.raises(ValueError, match=message):
        agreement(predicted, outcome)


def test_the_ceiling_is_the_mean_correlation_of_each_seed_with_the_others():
    y = np.random.default_rng(7).normal(size=(6, 4))
    by_hand = [oracle.spearman(y[:, s], np.delete(y, s, axis=1).mean(axis=1)) for s in range(4)]
    assert ceiling(y) == pytest.approx(np.mean(by_hand))


def test_the_ceiling_falls_from_one_towards_zero_as_the_seeds_decide_more():
    rng = np.random.default_rng(8)
    teachers, noise = np.arange(8.0)[:, None], rng.normal(size=(8, 5))
    found = [ceiling(teachers + sigma * noise) for sigma in (0.0, 1.0, 4.0)]
    assert found[0] == pytest.approx(1.0)
    assert found[0] > found[1] > found[2]
    chance = [ceiling(rng.normal(size=(8, 5))) for _ in range(200)]
    assert np.mean(chance) == pytest.approx(0.0, abs=4 * np.std(chance) / np.sqrt(200))


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (np.zeros((3, 1)), "two seeds"),
        (np.zeros((1, 3)), "two teachers"),
        (np.array([[1.0, np.nan], [2.0, 3.0]]), "not finite"),
    ],
)
def test_a_ceiling_without_two_of_each_is_refused(outcomes, message):
    with pytest.raises(ValueError, match=message):
        ceiling(outcomes)


def correlated_domains(rng, teachers, rho, domains=3):
    for _ in range(domains):
        x = rng.normal(size=teachers)
        yield named(x), named(rho * x + np.sqrt(1 - rho**2) * rng.normal(size=teachers))


def test_the_interval_is_around_the_mean_of_the_domains_correlations():
    domains = list(correlated_domains(np.random.default_rng(9), 8, 0.7))
    found = mean_interval(domains)
    mean = np.mean([agreement(x, y).spearman for x, y in domains])
    assert found.value == pytest.approx(mean)
    assert -1 <= found.low < found.value < found.high <= 1
    assert found == mean_interval(domains)
    wider = mean_interval(domains, confidence=0.99)
    assert wider.low < found.low


def test_nineteen_in_twenty_intervals_hold_the_true_mean():
    rng, rho = np.random.default_rng(10), 0.5
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman of normal scores that correlate by rho
    found = [
        mean_interval(list(correlated_domains(rng, 8, rho)), resamples=300, seed=i)
        for i in range(150)
    ]
    assert 0.9 <= np.mean([f.low <= truth <= f.high for f in found]) <= 1.0


def test_perfect_orders_have_an_interval_without_width():
    domains = [(named(range(5)), named(range(5)))] * 2
    found = mean_interval(domains, resamples=200)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1))


def test_a_domain_without_two_teachers_and_no_domain_are_refused():
    with pytest.raises(ValueError, match="at least one domain"):
        mean_interval([])
    with pytest.raises(ValueError, match="has no order"):
        mean_interval([({"a": 1.0}, {"a": 1.0})])
