"""Calibration metrics against definitions, scikit-learn, and models calibrated by design."""

import numpy as np
import pytest
import torch
from oracles import calibration as oracle
from sklearn.metrics import brier_score_loss, log_loss

from distill_ray.core import calibration
from distill_ray.core.resampling import Resamples


def _answers(n=400, seed=0, power=2):
    """Confidences and outcomes: overconfident, or at a power of 1 calibrated.

    Where all gaps have one sign any bins give the same ECE, so bins are tested with power 1.
    """
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 2, size=n)
    return confidence, (rng.random(n) < confidence**power).astype(np.float64)


def _probabilities(n=200, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), size=n), rng.integers(0, k, size=n)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_matches_the_definition(bins):
    confidence, correct = _answers(power=1)
    expected = oracle.ece(confidence, correct, bins)
    assert calibration.ece(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "bins"), [(400, 1), (400, 15), (401, 15), (7, 15), (1, 15)])
def test_adaptive_ece_matches_the_definition_also_with_more_bins_than_examples(n, bins):
    confidence, correct = _answers(n, power=1)
    expected = oracle.adaptive_ece(confidence, correct, bins)
    assert calibration.adaptive_ece(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_keeps_equal_confidences_in_one_bin_whatever_their_order():
    confidence = np.array([0.2, 0.6, 0.6, 0.6, 0.9, 0.9])
    correct = np.array([0.0, 1, 0, 0, 1, 0])
    # Bins close at the 2nd, 4th and 6th: .2 with all .6 (whose first is the 2nd), none, both .9.
    expected = (abs(1 - 2.0) + abs(1 - 1.8)) / 6
    for order in ([0, 1, 2, 3, 4, 5], [3, 2, 5, 1, 0, 4], [5, 4, 3, 2, 1, 0]):
        found = calibration.adaptive_ece(confidence[order], correct[order], bins=3)
        assert found == pytest.approx(expected, abs=1e-12)


def test_adaptive_ece_of_one_confidence_is_its_gap_to_accuracy():
    found = calibration.adaptive_ece(np.full(100, 0.75), np.arange(100) % 2.0)
    assert found == pytest.approx(0.25)


def test_adaptive_ece_sees_what_wide_bins_average_away():
    # Within (14/15, 1]: the sure half is overconfident, the other underconfident by as much.
    confidence = np.repeat([0.94, 0.98], 50)
    correct = np.repeat([1.0, 1.0, 0.0], [50, 46, 4])
    assert calibration.ece(confidence, correct) == pytest.approx(0, abs=1e-12)
    assert calibration.adaptive_ece(confidence, correct) == pytest.approx(0.06)


@pytest.mark.parametrize("bins", [1, 15])
def test_classwise_ece_matches_the_definition(bins):
    probabilities, gold = _probabilities()
    expected = oracle.classwise_ece(probabilities, gold, bins)
    found = calibration.classwise_ece(probabilities, gold, bins)
    assert found == pytest.approx(expected, abs=1e-12)


def test_classwise_ece_is_zero_at_right_certainty_and_two_kths_at_wrong():
    assert calibration.classwise_ece(np.eye(5), np.arange(5)) == 0.0
    # Each class: one certain and wrong, one unseen and gold, of five.
    found = calibration.classwise_ece(np.eye(5), (np.arange(5) + 1) % 5)
    assert found == pytest.approx(2 / 5)


def test_ece_of_one_bin_is_the_gap_between_accuracy_and_mean_confidence():
    confidence, correct = _answers()
    expected = abs(correct.mean() - confidence.mean())
    assert calibration.ece(confidence, correct, bins=1) == pytest.approx(expected)


def test_ece_is_zero_at_certainty_that_is_right_and_one_at_certainty_that_is_wrong():
    certain = np.ones(5)
    assert calibration.ece(certain, np.ones(5)) == 0.0
    assert calibration.ece(certain, np.zeros(5)) == 1.0


@pytest.mark.parametrize(
    ("value", "index"),
    [(0.0, 0), (0.05, 0), (0.25, 0), (0.2500001, 1), (0.5, 1), (0.75, 2), (0.76, 3), (1.0, 3)],
)
def test_bins_are_open_below_and_closed_above(value, index):
    assert calibration.bin_index(np.array([value]), 4).tolist() == [index]


def test_the_reliability_diagram_is_what_ece_sums():
    confidence, correct = _answers()
    diagram = calibration.reliability(confidence, correct)
    gaps = np.abs(np.array(diagram.accuracy) - np.array(diagram.confidence))
    count = np.array(diagram.count)
    assert count.sum() == len(confidence)
    assert (count > 0).all()
    expected = calibration.ece(confidence, correct)
    assert (count * gaps).sum() / count.sum() == pytest.approx(expected)
    assert diagram.confidence == sorted(diagram.confidence)


@pytest.mark.parametrize("n", [200, 1000])
def test_a_calibrated_model_sits_at_the_noise_floor(n):
    rng = np.random.default_rng(1)
    confidence = rng.uniform(0.25, 1.0, size=n)
    floor = calibration.noise_floor(confidence, draws=2000)
    measured = [oracle.ece(confidence, rng.random(n) < confidence, bins=15) for _ in range(800)]
    # Four standard errors of the simulated mean.
    error = 4 * np.std(measured) * np.sqrt(1 / len(measured) + 1 / 2000)
    assert np.mean(measured) == pytest.approx(floor, abs=error)


def test_an_overconfident_model_lies_above_the_noise_floor():
    confidence, correct = _answers(n=2000)
    floor = calibration.noise_floor(confidence)
    assert calibration.ece(confidence, correct) > 4 * floor


def test_more_examples_lower_the_noise_floor_by_their_square_root():
    rng = np.random.default_rng(2)
    small, large = (calibration.noise_floor(rng.random(n)) for n in (1000, 16000))
    assert small / large == pytest.approx(4, rel=0.1)


# Confidences from Beta(7.5, 2), a model that is right in 79 of 100 cases. The figures of METHODS.md
# are rounded and simulated: .040 at n = 500 and .030 at n = 1000 are 6 % off n to the power -1/2.
@pytest.mark.parametrize(
    ("n", "wide", "massed"),
    [(200, 0.064, 0.083), (500, 0.040, 0.052), (1000, 0.030, 0.036), (5000, 0.013, 0.016)],
)
def test_noise_floors_are_those_known_from_simulation(n, wide, massed):
    rng = np.random.default_rng(3)
    sets = [rng.beta(7.5, 2, size=n) for _ in range(40)]
    for metric, figure in ((calibration.ece, wide), (calibration.adaptive_ece, massed)):
        floors = [
            # A seed each: with one for all, every set would draw by the same numbers.
            calibration.noise_floor(confidence, metric=metric, draws=5, seed=seed)
            for seed, confidence in enumerate(sets)
        ]
        assert np.mean(floors) == pytest.approx(figure, rel=0.06)


@pytest.mark.parametrize("n", [200, 1000])
def test_a_calibrated_model_sits_at_the_adaptive_and_the_classwise_floor(n):
    rng = np.random.default_rng(5)
    p = rng.dirichlet([1, 2, 3], size=n)
    golds = [np.array([rng.choice(3, p=row) for row in p]) for _ in range(40)]
    sure, chosen = p.max(axis=1), p.argmax(axis=1)
    adaptive = [oracle.adaptive_ece(sure, chosen == gold, 15) for gold in golds]
    classwise = [oracle.classwise_ece(p, gold, 15) for gold in golds]
    for measured, data, metric in (
        (adaptive, sure, calibration.adaptive_ece),
        (classwise, p, calibration.classwise_ece),
    ):
        # Four standard errors of the simulated mean.
        error = 4 * np.std(measured) * np.sqrt(1 / len(measured) + 1 / 400)
        floor = calibration.noise_floor(data, metric=metric, draws=400)
        assert np.mean(measured) == pytest.approx(floor, abs=error)
        assert floor < 0.15


def test_outcomes_of_a_floor_over_options_have_the_options_probabilities():
    seen = []
    p = np.array([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
    calibration.noise_floor(p, metric=lambda _, gold, bins: seen.append(gold) or 0.0, draws=4000)
    shares = np.array([np.mean(np.array(seen) == k, axis=0) for k in range(3)]).T
    np.testing.assert_allclose(shares[0], p[0], atol=0.03)
    np.testing.assert_array_equal(shares[1], p[1])


def test_the_noise_floor_depends_on_its_seed_alone():
    confidence, _ = _answers()
    first, again = (calibration.noise_floor(confidence, seed=7) for _ in range(2))
    assert first == again
    assert calibration.noise_floor(confidence, seed=8) != first


def test_brier_matches_the_definition_and_scikit_learn():
    probabilities, gold = _probabilities()
    found = calibration.brier_each(probabilities, gold).mean()
    assert found == pytest.approx(oracle.brier(probabilities, gold))
    # Over two options the sum counts both sides of scikit-learn's one.
    two, right = _probabilities(k=2)
    assert calibration.brier_each(two, right).mean() == pytest.approx(
        2 * brier_score_loss(right, two[:, 1])
    )


def test_brier_runs_from_zero_to_two():
    certain = np.eye(3)
    assert calibration.brier_each(certain, np.array([0, 1, 2])).tolist() == [0, 0, 0]
    assert calibration.brier_each(certain, np.array([1, 2, 0])).tolist() == [2, 2, 2]


def test_nll_matches_the_definition_and_scikit_learn():
    probabilities, gold = _probabilities()
    each = calibration.nll_each(probabilities, gold)
    np.testing.assert_allclose(each, oracle.nll(probabilities, gold))
    assert each.mean() == pytest.approx(log_loss(gold, probabilities, labels=range(4)))


def test_nll_of_an_impossible_answer_is_large_and_finite():
    (worst,) = calibration.nll_each(np.array([[1.0, 0.0]]), np.array([1]))
    assert 20 < worst < np.inf


def test_normalise_keeps_ratios_and_sums_to_one_however_small_the_likelihoods():
    scores = np.array([[-1.0, -2.0, -4.0], [-9001.0, -9002.0, -9004.0]])
    found = calibration.normalise(scores)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    np.testing.assert_allclose(found[0], found[1])
    np.testing.assert_allclose(np.log(found[0, 0] / found[0]), [0, 1, 3])


def test_scores_by_length_are_nats_a_token_and_can_change_the_answer():
    scores, lengths = np.array([[-4.0, -6.0], [-4.0, -9.0]]), np.array([2, 6])
    found = calibration.by_length(scores, lengths)
    np.testing.assert_array_equal(found, [[-2, -1], [-2, -1.5]])
    assert scores.argmax(axis=1).tolist() == [0, 0]
    assert found.argmax(axis=1).tolist() == [1, 1]


def test_scores_by_length_refuse_an_empty_option():
    with pytest.raises(ValueError, match="length above 0, got 0"):
        calibration.by_length(np.zeros((1, 2)), np.array([3, 0]))


def test_scores_by_prior_are_what_the_question_adds():
    likelihood, prior = np.array([[0.3, 0.1], [0.0, 0.2]]), np.array([0.6, 0.05])
    with np.errstate(divide="ignore"):
        found = calibration.by_prior(np.log(likelihood), np.log(prior))
    np.testing.assert_allclose(np.exp(found), [[0.5, 2], [0, 4]])


def test_scores_by_prior_refuse_a_prior_nothing_can_be_measured_against():
    with pytest.raises(ValueError, match="finite prior"):
        calibration.by_prior(np.zeros((1, 2)), np.array([0.0, -np.inf]))


@pytest.mark.parametrize("levels", [4, 1000000])
def test_auroc_counts_pairs_and_ties_as_half_a_pair(levels):
    confidence, correct = _answers(n=150)
    confidence = np.round(confidence * levels) / levels
    expected = oracle.auroc(confidence, correct)
    over = Resamples([str(i) for i in range(150)], resamples=2)
    assert over.auroc(confidence, correct).value == pytest.approx(expected, abs=1e-12)
    assert over.auroc(-confidence, correct).value == pytest.approx(1 - expected, abs=1e-12)


def test_auroc_is_none_where_no_right_answer_meets_a_wrong_one():
    confidence = np.array([0.2, 0.9])
    over = Resamples(["a", "b"], resamples=2)
    assert over.auroc(confidence, np.ones(2)) is None
    assert over.auroc(confidence, np.zeros(2)) is None


def _vocabulary(n=300, v=40, seed=0):
    """Log-probabilities with a fifth of the vocabulary impossible, and tokens drawn from p²."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(3 * rng.standard_normal((n, v)))
    logits[torch.from_numpy(rng.random((n, v)) < 0.2)] = -torch.inf
    generator = torch.Generator().manual_seed(seed)
    gold = torch.multinomial((2 * logits).softmax(-1), 1, generator=generator)[:, 0]
    return logits.log_softmax(-1), gold


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_full_ece_and_its_sums_match_the_definition(bins):
    log_p, gold = _vocabulary()
    found = calibration.FullEce.empty(bins)
    found.add(log_p, gold)
    counts, mass, hits, value = oracle.full_ece(log_p.exp().numpy(), gold.numpy(), bins)
    assert (found.counts.tolist(), found.hits.tolist()) == (counts, hits)
    np.testing.assert_allclose(found.mass, mass, atol=1e-12)
    assert found.value == pytest.approx(value, abs=1e-12)
    assert bins == 1 or value > 0.1


def test_full_ece_has_the_bins_of_ece():
    p = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25, 0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]])
    p = p.double()
    found = calibration.FullEce.empty(4)
    # exp(log p) of these is exact, which a boundary needs.
    assert torch.equal(p.log().exp(), p)
    found.add(p.log(), torch.tensor([0, 0, 3]))
    index = calibration.bin_index(p.numpy().ravel(), 4)
    assert found.counts.tolist() == np.bincount(index, minlength=4).tolist() == [9, 2, 0, 1]
    assert found.hits.tolist() == [1, 1, 0, 1]
    np.testing.assert_allclose(found.mass, [1, 1, 0, 1])


def test_full_ece_of_batches_and_of_merged_halves_is_that_of_the_whole():
    log_p, gold = _vocabulary()
    whole, parts = calibration.FullEce.empty(), [calibration.FullEce.empty() for _ in range(2)]
    whole.add(log_p, gold)
    for i, (p, token) in enumerate(zip(log_p.split(37), gold.split(37), strict=True)):
        parts[i % 2].add(p, token)
    merged = parts[0] + parts[1]
    assert merged.counts.tolist() == whole.counts.tolist()
    assert merged.hits.tolist() == whole.hits.tolist()
    np.testing.assert_allclose(merged.mass, whole.mass, atol=1e-12)
    assert merged.value == pytest.approx(whole.value, abs=1e-12)
    # The halves themselves are left as they were.
    assert parts[0].hits.sum() + parts[1].hits.sum() == len(gold)


def test_full_ece_of_a_batch_larger_than_it_holds_at_a_time_is_that_of_its_rows(monkeypatch):
    log_p, gold = _vocabulary()
    whole, rows = calibration.FullEce.empty(), calibration.FullEce.empty()
    whole.add(log_p, gold)
    monkeypatch.setattr(calibration, "_CHUNK", 7 * log_p.shape[1] + 1)
    rows.add(log_p, gold)
    assert rows.counts.tolist() == whole.counts.tolist()
    assert rows.value == pytest.approx(whole.value, abs=1e-12)


def test_full_ece_leaves_what_it_is_given_as_it_was():
    log_p, gold = _vocabulary(n=5)
    given = log_p.clone().requires_grad_()
    calibration.FullEce.empty().add(given, gold)
    assert torch.equal(given, log_p)


def test_full_ece_of_tokens_drawn_from_the_model_goes_to_zero():
    log_p, _ = _vocabulary(n=4000)
    found = calibration.FullEce.empty()
    generator = torch.Generator().manual_seed(0)
    found.add(log_p, torch.multinomial(log_p.exp(), 1, generator=generator)[:, 0])
    # A bin's hits deviate by at most the root of their number: Σ_m √hits_m / N.
    assert 0 < found.value < np.sqrt(found.hits).sum() / 4000


def test_full_ece_takes_half_precision_and_sums_it_in_double():
    log_p, gold = _vocabulary()
    half, double = calibration.FullEce.empty(), calibration.FullEce.empty()
    half.add(log_p.bfloat16(), gold)
    double.add(log_p.bfloat16().double(), gold)
    np.testing.assert_array_equal(half.mass, double.mass)
    assert half.value == double.value


def test_full_ece_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one position"):
        _ = calibration.FullEce.empty().value
