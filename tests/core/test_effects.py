"""Teacher effects apart from seed effects, races, and the seeds that come next."""

import numpy as np
import pytest

from distill_ray.core.effects import additive
from distill_ray.core.racing import decide, next_seeds

BALANCED = [(n, s) for n in "abc" for s in range(4)]
RACED = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2), ("b", 3), ("c", 0), ("c", 1),
         ("c", 2), ("c", 3), ("d", 1), ("d", 0)]  # fmt: skip
TRUTH = {"a": 1.0, "b": 2.0, "c": 2.5, "d": -1.0}


def simulated(cells, rng, noise=1.0, seed_noise=3.0, truth=TRUTH):
    """Trials of the additive model, and the seeds' effects."""
    seeds = {s: seed_noise * rng.normal() for _, s in cells}
    return {(n, s): truth[n] + seeds[s] + noise * rng.normal() for n, s in cells}, seeds


def interval(draws, confidence=0.95):
    tail = 100 * (1 - confidence) / 2
    return np.percentile(draws, [tail, 100 - tail])


def test_means_of_a_balanced_table_are_the_averages_and_the_variance_is_that_of_two_way_anova():
    values, _ = simulated(BALANCED, np.random.default_rng(0))
    table = np.array([[values[n, s] for s in range(4)] for n in "abc"])
    found = additive(values)
    assert [found.means[n] for n in "abc"] == pytest.approx(table.mean(axis=1))
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    assert found.df == 6
    assert found.residual_variance == pytest.approx((rest**2).sum() / 6)
    assert found.covariance == pytest.approx(np.eye(3) * found.residual_variance / 4)


def test_a_noiseless_unbalanced_table_is_solved_on_the_footing_of_all_seeds():
    values, seeds = simulated(RACED, np.random.default_rng(2), noise=0.0)
    found = additive(values)
    common = np.mean(list(seeds.values()))
    assert found.means == pytest.approx({n: t + common for n, t in TRUTH.items()})
    # The plain average of a has only the effects of its own two seeds in it.
    footing = np.mean([seeds[0], seeds[1]]) - common
    plain = np.mean([values["a", s] for s in (0, 1)])
    assert plain - found.means["a"] == pytest.approx(footing)
    assert abs(footing) > 0.5


def test_a_shift_of_one_seed_moves_no_difference():
    values, _ = simulated(RACED, np.random.default_rng(2))
    shifted = {(n, s): v + 7.0 * (s == 1) for (n, s), v in values.items()}
    before, after = additive(values), additive(shifted)
    for n in "bcd":
        gap = before.means[n] - before.means["a"]
        assert after.means[n] - after.means["a"] == pytest.approx(gap)
    assert after.residual_variance == pytest.approx(before.residual_variance)


def test_the_order_of_the_trials_changes_nothing():
    values, _ = simulated(RACED, np.random.default_rng(3))
    found = additive(dict(reversed(values.items())))
    assert found.means == pytest.approx(dict(additive(values).means))
    assert found.teachers == ("d", "c", "b", "a")


@pytest.mark.parametrize("cells", [BALANCED, RACED], ids=["balanced", "raced"])
def test_nineteen_in_twenty_intervals_hold_the_true_difference(cells):
    rng = np.random.default_rng(4)
    covered = {"difference": [], "level": []}
    for _ in range(400):
        values, seeds = simulated(cells, rng)
        draws = additive(values).draws(1000, rng)
        low, high = interval(draws["b"] - draws["a"])
        covered["difference"].append(low <= TRUTH["b"] - TRUTH["a"] <= high)
        low, high = interval(draws["a"])
        covered["level"].append(low <= TRUTH["a"] + np.mean(list(seeds.values())) <= high)
    # Nominal .95; four standard errors of a share of 400 are .044.
    for found in covered.values():
        assert 0.92 <= np.mean(found) <= 0.98


def test_draws_have_the_spread_of_a_t_distribution():
    values, _ = simulated(BALANCED, np.random.default_rng(5))
    found = additive(values)
    draws = found.draws(40000, np.random.default_rng(0))
    half = 2.447 * np.sqrt(found.covariance[0, 0])  # t, 6 degrees of freedom, 97.5 %
    low, high = interval(draws["a"])
    assert (low, high) == pytest.approx(
        (found.means["a"] - half, found.means["a"] + half), abs=0.03 * half
    )


def test_paired_seeds_narrow_a_difference_against_seeds_of_their_own():
    values, _ = simulated(BALANCED, np.random.default_rng(6))
    draws = additive(values).draws(4000, np.random.default_rng(0))
    low, high = interval(draws["b"] - draws["a"])
    # The same numbers, each teacher alone: what the seeds do is then noise.
    alone = {
        n: additive({cell: v for cell, v in values.items() if cell[0] == n}).draws(
            4000, np.random.default_rng(i)
        )[n]
        for i, n in enumerate("ab")
    }
    unpaired_low, unpaired_high = interval(alone["b"] - alone["a"])
    assert high - low < 0.5 * (unpaired_high - unpaired_low)


def test_one_teacher_has_its_plain_mean_with_the_variance_between_seeds():
    found = additive({("a", 0): 1.0, ("a", 1): 2.0, ("a", 2): 6.0})
    assert found.means == pytest.approx({"a": 3.0})
    assert found.df == 2
    assert found.covariance[0, 0] == pytest.approx(7.0 / 3)


def test_identical_trials_are_not_certain_beyond_what_the_figure_can_show():
    same = {(n, s): 0.8 + 0.01 * (n == "b") for n in "ab" for s in range(3)}
    exact, coarse = additive(same), additive(same, resolution=0.02)
    assert exact.floored
    assert coarse.floored
    assert 0 < exact.residual_variance < 1e-10
    assert coarse.residual_variance == pytest.approx(0.02**2 / 12, rel=1e-3)
    rng = np.random.default_rng(0)
    assert decide(exact.draws(4000, rng)).separated
    assert not decide(coarse.draws(4000, rng)).separated
    assert not additive(simulated(BALANCED, rng)[0], resolution=0.02).floored


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "no trial"),
        ({("a", 0): 1.0, ("b", 0): 2.0}, "run two seeds at least"),
        ({("a", 0): 1.0}, "run two seeds at least"),
        ({("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 2.0}, "nothing to measure the noise"),
        (dict.fromkeys([("a", 0), ("a", 1), ("b", 2), ("b", 3)], 1.0), "share no seed"),
        ({("a", 0): 1.0, ("a", 1): np.nan}, "a seed 1; leave them out"),
    ],
)
def test_tables_that_say_nothing_of_the_noise_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        additive(values)


def normal_draws(count=4000, **means):
    rng = np.random.default_rng(0)
    return {n: m + rng.normal(size=count) for n, m in means.items()}


def test_a_teacher_far_ahead_separates():
    race = decide(normal_draws(a=0.0, b=9.0, c=1.0))
    assert (race.leader, race.candidates, race.separated) == ("b", ("b",), True)
    assert str(race) == "separated at 95 %"
    assert race.probability_best["b"] == pytest.approx(1.0)


def test_teachers_that_may_beat_the_leader_stay_open_likeliest_first():
    race = decide(normal_draws(a=0.0, b=0.4, c=1.0, d=-9.0))
    assert race.candidates == ("c", "b", "a")
    assert str(race) == "too close to call between c, b, a"
    assert sum(race.probability_best.values()) == pytest.approx(1.0)


def test_more_confidence_or_more_looks_keep_more_teachers_open():
    draws = normal_draws(a=0.0, b=3.0)
    assert decide(draws).separated
    assert not decide(draws, confidence=0.99).separated
    assert not decide(draws, num_looks=5).separated


def test_equal_draws_leave_all_open_with_equal_chances():
    race = decide({n: np.full(4000, 0.5) for n in "abcd"})
    assert race.candidates == tuple("abcd")
    assert race.probability_best == pytest.approx(dict.fromkeys("abcd", 0.25))


def test_what_all_draws_have_in_common_does_not_choose_the_leader():
    draws = normal_draws(a=0.0, b=0.0)
    common = 1000 * np.random.default_rng(1).normal(size=4000)
    shifted = {"a": common + 0.01 * draws["a"], "b": common + 1.0 + 0.01 * draws["b"]}
    assert decide(shifted).candidates == ("b",)


def test_the_leader_has_the_highest_median_of_what_draws_do_not_have_in_common():
    """Apart from what both share, b is ahead in two draws of three; its raw median is lower."""
    draws = {
        "a": np.tile([-100.0, 1.0, 100.0], 1000),
        "b": np.tile([-99.0, 0.0, 101.0], 1000),
    }
    assert np.median(draws["a"]) > np.median(draws["b"])
    race = decide(draws)
    assert race.leader == "b"
    assert race.probability_best == pytest.approx({"a": 1 / 3, "b": 2 / 3})


def test_a_single_teacher_has_won():
    assert decide({"a": np.zeros(3)}).separated


def test_too_few_draws_and_no_teachers_are_refused():
    with pytest.raises(ValueError, match="give 200 or more"):
        decide(normal_draws(count=100, a=0.0, b=1.0), num_looks=10)
    with pytest.raises(ValueError, match="at least one teacher"):
        decide({})


def raced(truth, rng, max_seeds=5):
    """A whole race: the last decision, and the number of trials."""
    values, seeds, race = {}, {}, None
    done = {n: set() for n in truth}
    while wave := next_seeds(race.candidates if race else list(truth), done, max_seeds):
        for n, s in wave:
            effect = seeds.setdefault(s, 3 * rng.normal())
            values[n, s] = truth[n] + effect + rng.normal()
            done[n].add(s)
        if len(seeds) > 1:
            race = decide(additive(values).draws(2000, rng), num_looks=max_seeds - 1)
    return race, len(values)


def test_races_pick_the_best_teacher_at_the_stated_confidence_with_fewer_trials():
    rng = np.random.default_rng(11)
    found = [raced({"a": 0.0, "b": 4.0, "c": 1.0, "d": 0.5}, rng) for _ in range(150)]
    assert np.mean([race.leader == "b" for race, _ in found]) >= 0.95
    assert np.mean(["b" in race.candidates for race, _ in found]) >= 0.95
    assert np.mean([race.separated for race, _ in found]) > 0.8
    assert np.mean([trials for _, trials in found]) < 0.9 * 4 * 5


def test_races_close_a_barely_better_teacher_no_more_often_than_stated():
    rng = np.random.default_rng(12)
    found = [raced({"a": 0.0, "b": 0.01, "c": 0.0}, rng)[0] for _ in range(150)]
    # Four standard errors above .05 would pass .12; Bonferroni leaves it well below.
    assert np.mean(["b" not in race.candidates for race in found]) <= 0.05


def test_races_of_equal_teachers_end_too_close_to_call():
    rng = np.random.default_rng(13)
    found = [raced(dict.fromkeys("abc", 0.0), rng)[0] for _ in range(150)]
    assert np.mean([str(race).startswith("too close to call") for race in found]) >= 0.95


def test_every_wave_gives_all_open_teachers_the_same_seed():
    done = {"a": {0, 1}, "b": {0, 1}, "c": {0, 1}}
    assert next_seeds(["a", "c"], done, 4) == [("a", 2), ("c", 2)]
    assert next_seeds(["a", "b"], {}, 4) == [("a", 0), ("b", 0)]
    assert next_seeds(["a", "b"], {"a": {7}, "b": {7}}, 4) == [("a", 8), ("b", 8)]


def test_a_teacher_that_opens_again_catches_up_first():
    done = {"a": {0, 1, 2, 3}, "b": {0, 1}, "c": {0, 1, 2, 3}}
    assert next_seeds(["a", "b"], done, 5) == [("b", 2)]
    assert next_seeds(["a", "b"], done | {"b": {0, 1, 2}}, 5) == [("b", 3)]
    assert next_seeds(["a", "b"], done | {"b": {0, 1, 2, 3}}, 5) == [("a", 4), ("b", 4)]


def test_a_race_that_is_over_or_out_of_budget_has_no_next_wave():
    done = {"a": {0, 1}, "b": {0, 1}}
    assert next_seeds(["a"], done, 5) == []
    assert next_seeds([], done, 5) == []
    assert next_seeds(["a", "b"], done, 2) == []
