"""Calibration metrics against definitions, scikit-learn, and models calibrated by design."""

import numpy as np
import pytest
from oracles import calibration as oracle
from sklearn.metrics import brier_score_loss, log_loss

from distill_ray.core import calibration


def _answers(n=400, seed=0):
    """Confidences and outcomes of an overconfident model."""
    rng = np.random.default_rng(seed)
    confidence = rng.beta(4, 2, size=n)
    return confidence, (rng.random(n) < confidence**2).astype(np.float64)


def _probabilities(n=200, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), size=n), rng.integers(0, k, size=n)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_ece_matches_the_definition(bins):
    confidence, correct = _answers()
    expected = oracle.ece(confidence, correct, bins)
    assert calibration.ece(confidence, correct, bins) == pytest.approx(expected, abs=1e-12)


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


# Confidences uniform over [1/2, 1], which fill 8 of the 15 bins. The figures of METHODS.md are
# rounded and simulated; a tenth is what they agree to among themselves (n to the power -1/2).
@pytest.mark.parametrize(
    ("n", "figure"), [(200, 0.064), (500, 0.040), (1000, 0.030), (5000, 0.013)]
)
def test_noise_floors_are_those_known_from_simulation(n, figure):
    rng = np.random.default_rng(3)
    floors = [calibration.noise_floor(rng.uniform(0.5, 1, size=n), draws=40) for _ in range(10)]
    assert np.mean(floors) == pytest.approx(figure, rel=0.1)


def test_the_noise_floor_depends_on_its_seed_alone():
    confidence, _ = _answers()
    first, again = (calibration.noise_floor(confidence, seed=7) for _ in range(2))
    assert first == again
    assert calibration.noise_floor(confidence, seed=8) != first


def test_brier_matches_the_definition_and_scikit_learn():
    probabilities, gold = _probabilities()
    found = calibration.brier(probabilities, gold)
    assert found == pytest.approx(oracle.brier(probabilities, gold))
    # Over two options the sum counts both sides of scikit-learn's one.
    two, right = _probabilities(k=2)
    assert calibration.brier(two, right) == pytest.approx(2 * brier_score_loss(right, two[:, 1]))


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
