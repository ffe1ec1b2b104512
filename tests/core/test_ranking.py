"""From factors to a ranking: weights, factor definitions, standings."""

import numpy as np
import pytest

from distill_ray.core import ranking
from distill_ray.core.calibration import brier_each, ece
from distill_ray.core.ranking import Draws, leaderboard

EARLY = {
    "learnability": "critical",
    "accuracy_above_chance": "medium",
    "domain_knowledge": "high",
    "calibration": "medium",
}
LATE = {
    "learnability": "low",
    "accuracy_above_chance": "high",
    "domain_knowledge": "very_high",
    "calibration": "high",
}


def test_words_become_weights_in_the_ratio_of_their_levels_that_sum_to_one():
    early, late = ranking.weights(EARLY), ranking.weights(LATE)
    # 16 : 2 : 4 : 2 of 24, and 1 : 4 : 8 : 4 of 17.
    assert early == pytest.approx({"learnability": 2 / 3,
                                   "accuracy_above_chance": 1 / 12, "domain_knowledge": 1 / 6,
                                   "calibration": 1 / 12})  # fmt: skip
    assert late == pytest.approx({"learnability": 1 / 17,
                                  "accuracy_above_chance": 4 / 17, "domain_knowledge": 8 / 17,
                                  "calibration": 4 / 17})  # fmt: skip


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_weights_on_the_way_lie_on_the_line_between_both_ends(progress):
    early, late = ranking.weights(EARLY), ranking.weights(LATE)
    found = ranking.weights_at(early, late, progress)
    assert sum(found.values()) == pytest.approx(1)
    for factor in ranking.FACTORS:
        moved = found[factor] - early[factor]
        assert moved == pytest.approx(progress * (late[factor] - early[factor]))


def test_a_score_of_equal_factors_is_that_factor_at_any_progress():
    early, late = ranking.weights(EARLY), ranking.weights(LATE)
    for progress in (0.0, 0.4, 1.0):
        same = dict.fromkeys(ranking.FACTORS, 0.37)
        assert ranking.weighted_score(same, early, late, progress) == pytest.approx(0.37)


@pytest.mark.parametrize(
    ("moved", "best", "expected"),
    [(1.0, 4.0, 0.5), (4.0, 4.0, 1), (0.0, 4.0, 0), (-1.0, 4.0, 0), (-1.0, -0.5, 0), (0.0, 0.0, 0)],
)
def test_ease_is_the_root_of_what_moved_relative_to_the_best_teacher(moved, best, expected):
    assert ranking.learnability(moved, best) == expected


def test_ease_of_draws_is_taken_draw_by_draw():
    moved, best = np.array([0.5, 2.0, -1.0]), np.array([2.0, 2.0, -0.5])
    assert ranking.learnability(moved, best).tolist() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    ("accuracy", "chance", "expected"),
    [(0.25, 0.25, 0), (1, 0.25, 1), (0.625, 0.25, 0.5), (0.1, 0.25, 0), (1, 1, 0)],
)
def test_peak_counts_from_the_majority_class(accuracy, chance, expected):
    assert ranking.accuracy_above_chance(accuracy, chance) == expected


@pytest.mark.parametrize(
    ("loss", "reference", "expected"),
    [(8.0, 8.0, 0), (2.0, 8.0, 0.75), (0, 8, 1), (9, 8, 0), (1, 0, 0)],
)
def test_skill_is_the_share_of_the_reference_loss_that_is_gone(loss, reference, expected):
    assert ranking.skill(loss, reference) == expected


def test_base_rates_have_no_skill_by_the_brier_score_however_well_calibrated():
    gold = np.repeat([0, 0, 0, 1, 2], 40)
    rates = np.bincount(gold) / len(gold)
    brier = brier_each(np.tile(rates, (len(gold), 1)), gold).mean()
    honest, sure = np.eye(3)[gold] * 0.6 + 0.4 * rates, np.eye(3)[gold]
    assert ece(np.full(len(gold), rates.max()), (gold == 0).astype(float)) == pytest.approx(0)
    assert ranking.skill(brier, brier) == 0
    found = ranking.skill(brier_each(honest, gold).mean(), brier)
    assert 0 < found < ranking.skill(brier_each(sure, gold).mean(), brier) == 1


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.8, 1.0])
def test_what_is_taught_is_the_minimum_of_the_objective(alpha):
    """α·KL(p ‖ q) + (1 - α)·CE(r, q), over any q of everything that could be said."""
    rng = np.random.default_rng(0)
    p, r = rng.dirichlet(np.ones(6)), rng.dirichlet(np.ones(6))
    best = np.exp(ranking.target_log_p(np.log(p)[None], np.log(r)[None], alpha))[0]
    assert best.sum() == pytest.approx(1)

    def objective(q):
        kl = (p * (np.log(p) - np.log(q))).sum()
        return alpha * kl - (1 - alpha) * (r * np.log(q)).sum()

    others = [0.9 * best + 0.1 * rng.dirichlet(np.ones(6)) for _ in range(200)]
    assert all(objective(q) > objective(best) for q in others)


def test_a_teacher_that_says_nothing_of_the_options_leaves_the_labels_answers():
    rng = np.random.default_rng(1)
    labels = np.log(rng.dirichlet(np.ones(4), size=50))
    silent = np.full((50, 4), np.log(0.001 / 4))
    loud = np.log(np.tile([0.97, 0.01, 0.01, 0.01], (50, 1)))
    assert (ranking.target_log_p(silent, labels, 0.8).argmax(1) == labels.argmax(1)).all()
    assert (ranking.target_log_p(loud, labels, 0.8).argmax(1) == 0).all()


FACTORS = {
    "small": {"learnability": 0.9, "accuracy_above_chance": 0.3},
    "large": {"learnability": 0.2, "accuracy_above_chance": 0.8},
    "middle": {"learnability": 0.5, "accuracy_above_chance": 0.5},
}
EASE_ONLY, PEAK_ONLY = (
    {"learnability": 1.0, "accuracy_above_chance": 0.0},
    {"learnability": 0.0, "accuracy_above_chance": 1.0},
)


def _standings(progress, noise=0.05, **changes):
    rng = np.random.default_rng(0)
    drawn = {
        name: {f: value + noise * rng.normal(size=2000) for f, value in factors.items()}
        for name, factors in FACTORS.items()
    }
    return leaderboard(FACTORS, Draws(drawn), EASE_ONLY, PEAK_ONLY, progress=progress, **changes)


@pytest.mark.parametrize(
    ("progress", "order"),
    [(0.0, ["small", "middle", "large"]), (1.0, ["large", "middle", "small"])],
)
def test_the_best_come_first_and_the_order_turns_with_progress(progress, order):
    rows = _standings(progress)
    assert [row.teacher for row in rows] == order
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.55, 1.0])
def test_chances_of_being_best_sum_to_one(progress):
    assert sum(r.probability_best for r in _standings(progress)) == pytest.approx(1)


def test_the_chance_of_being_best_is_the_share_of_draws_that_are_won():
    # Two teachers a half standard deviation of the difference apart: Φ(.5) = .691.
    rng = np.random.default_rng(1)
    spread = 0.1 / np.sqrt(2)
    drawn = {
        n: {"learnability": m + spread * rng.normal(size=40000)}
        for n, m in (("a", 0.55), ("b", 0.5))
    }
    points = {"a": {"learnability": 0.55}, "b": {"learnability": 0.5}}
    rows = leaderboard(
        points, Draws(drawn), {"learnability": 1.0}, {"learnability": 1.0}, progress=0
    )
    assert rows[0].probability_best == pytest.approx(0.691, abs=0.01)


def test_intervals_are_percentiles_of_the_weighted_draws():
    rows = {r.teacher: r for r in _standings(0.0, noise=0.1, confidence=0.6827)}
    for name, row in rows.items():
        assert row.low == pytest.approx(FACTORS[name]["learnability"] - 0.1, abs=0.01)
        assert row.high == pytest.approx(FACTORS[name]["learnability"] + 0.1, abs=0.01)


def test_the_deciding_factor_separates_a_teacher_from_its_best_rival():
    # At .5: small .6, large .5, middle .5. Small leads by ease; large trails small by ease.
    rows = {r.teacher: r.decided_by for r in _standings(0.5)}
    assert rows["small"] == "learnability"
    assert rows["large"] == "learnability"
    late = {r.teacher: r.decided_by for r in _standings(0.9)}
    assert late["large"] == "accuracy_above_chance"
    assert late["small"] == "accuracy_above_chance"


def test_a_lone_teacher_is_best_for_certain():
    (row,) = leaderboard(
        {"a": {"learnability": 0.4}}, Draws({"a": {"learnability": np.full(10, 0.4)}}),
        {"learnability": 1.0}, {"learnability": 1.0}, progress=0.5,
    )  # fmt: skip
    assert (row.probability_best, row.decided_by) == (1.0, "no other teacher")
    assert (row.low, row.score, row.high) == pytest.approx((0.4, 0.4, 0.4))
