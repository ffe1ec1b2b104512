"""Shares of tokens and of rows: exact as far as whole rows allow, at every place of a run."""

from itertools import pairwise

import numpy as np
import pytest

from distill_ray.config.training import TrainingConfig
from distill_ray.data.mixing import mean_shares, mixing, streams_at
from distill_ray.data.order import rows_at

MIXES = [({"a": 7, "b": 3}, 10), ({"a": 0.5, "b": 0.3, "c": 0.2}, 10), ({"a": 98, "b": 2}, 50)]
"""A mix, and after how many rows it comes out even."""


def sizes(mix, *, low=1, high=200, seed=0):
    """Tokens of a few rows of each stream."""
    rng = np.random.default_rng(seed)
    return {name: rng.integers(low, high + 1, rng.integers(3, 40)) for name in mix}


def drawn(streams, tokens, names, seed):
    """[P] tokens of the row at each position."""
    rows = rows_at(streams, {name: len(tokens[name]) for name in names}, seed)
    return np.array([tokens[names[s]][r] for s, r in zip(streams, rows, strict=True)])


def ahead(streams, weights, shares):
    """[P, K] by how much each stream is ahead of its share after each position."""
    mine = weights[:, None] * (streams[:, None] == np.arange(shares.shape[1]))
    return np.cumsum(mine - weights[:, None] * shares, axis=0)


@pytest.mark.parametrize(("mix", "even"), MIXES)
def test_rows_are_in_their_shares_wherever_they_can_be_and_within_one_row_between(mix, even):
    mixed = mixing(mix, 500, by_tokens=False)
    streams = streams_at(mixed, 10, {}, 0)
    lead = ahead(streams, np.ones(5000), np.repeat(mixed.shares, 10, axis=0))
    assert np.abs(lead).max() <= 1 + 1e-6
    np.testing.assert_allclose(lead[even - 1 :: even], 0, atol=1e-6)


def test_seven_to_three_is_seven_of_every_ten_rows():
    streams = streams_at(mixing({"generic": 7, "task": 3}, 100, by_tokens=False), 10, {}, 0)
    assert (streams.reshape(-1, 10).sum(axis=1) == 3).all()


@pytest.mark.parametrize("seed", range(25))
def test_tokens_are_within_the_largest_row_of_their_shares_at_every_position(seed):
    rng = np.random.default_rng(seed)
    mix = {f"s{k}": float(w) for k, w in enumerate(rng.exponential(size=rng.integers(2, 7)) + 0.01)}
    tokens = sizes(mix, seed=seed, high=int(rng.integers(2, 300)))
    mixed = mixing(mix, 400)
    streams = streams_at(mixed, 4, tokens, seed)
    weights = drawn(streams, tokens, mixed.names, seed)
    lead = ahead(streams, weights, np.repeat(mixed.shares, 4, axis=0))
    largest = max(found.max() for found in tokens.values())
    own = np.array([tokens[name].max() for name in mixed.names])
    # The theorem's two bounds (Bennett & Zhang 1996): behind, and ahead.
    assert lead.min() >= -largest - 1e-3
    assert (lead.max(axis=0) <= (1 - mixed.shares[0]) * own + 1e-3).all()


def test_streams_of_unequal_rows_get_their_shares_of_tokens_and_not_of_rows():
    tokens = {"short": np.full(10, 20), "text": np.full(10, 200)}
    streams = streams_at(mixing({"short": 1, "text": 1}, 110), 10, tokens, 0)
    assert np.bincount(streams).tolist() == [1000, 100]


@pytest.mark.parametrize("seed", range(10))
def test_each_part_of_a_run_is_exact_in_itself(seed):
    rng = np.random.default_rng(seed)
    at = np.sort(rng.uniform(0.05, 0.95, 3)).tolist()
    mixes = [{k: float(rng.uniform(0.1, 1)) for k in names} for names in ("ab", "abc", "c", "ac")]
    mixed = mixing(mixes[0], 200, by_tokens=False, changes=list(zip(at, mixes[1:])))
    streams = streams_at(mixed, 8, {}, 0)
    begins = [0, *sorted(mixed.restarts), 200]
    for number, (first, end) in enumerate(pairwise(begins)):
        part = slice(8 * first, 8 * end)
        shares = np.repeat(mixed.shares[first:end], 8, axis=0)
        lead = ahead(streams[part], np.ones(len(shares)), shares)
        assert np.abs(lead).max(initial=0) <= 1 + 1e-6
        read = {mixed.names[k] for k in np.unique(streams[part]).tolist()}
        assert read <= set(mixes[number])


def test_a_change_begins_at_the_first_step_that_has_its_share_behind_it():
    mixed = mixing({"a": 1}, 10, changes=[(0.3, {"b": 1}), (0.55, {"a": 1, "b": 3})])
    assert mixed.shares[:, 1].tolist() == [0] * 3 + [1] * 3 + [0.75] * 4
    assert mixed.restarts == {3, 6}


def test_a_straight_line_goes_from_mix_to_mix_and_stays_at_the_last():
    changes = [(0.5, {"a": 1, "b": 1}), (0.75, {"b": 2})]
    mixed = mixing({"a": 4}, 8, changes=changes, linear=True)
    expected = [0, 0.125, 0.25, 0.375, 0.5, 0.75, 1, 1]
    np.testing.assert_allclose(mixed.shares[:, 1], expected)


@pytest.mark.parametrize("seed", range(10))
def test_moving_shares_are_kept_within_two_rows(seed):
    rng = np.random.default_rng(seed)
    first, last = ({k: float(rng.uniform(0.05, 1)) for k in "abcd"} for _ in range(2))
    linear = {"changes": [(0.8, last)], "linear": True}
    mixed = mixing(first, 300, by_tokens=False, **linear)
    streams = streams_at(mixed, 8, {}, 0)
    lead = ahead(streams, np.ones(2400), np.repeat(mixed.shares, 8, axis=0))
    assert np.abs(lead).max() <= 2


def test_the_order_of_a_mix_s_keys_is_no_matter():
    tokens = sizes("ab")
    one, other = ({"a": 7, "b": 3}, {"b": 3, "a": 7})
    found = [streams_at(mixing(mix, 50), 8, tokens, 0).tolist() for mix in (one, other)]
    assert found[0] == found[1]


def test_a_longer_run_begins_like_a_shorter_one():
    tokens = sizes("ab")
    long, short = (streams_at(mixing({"a": 2, "b": 1}, s), 4, tokens, 3) for s in (500, 50))
    np.testing.assert_array_equal(long[:200], short)


@pytest.mark.parametrize("steps", [10, 10**9])
def test_the_mean_share_is_that_of_all_steps(steps):
    mixing = {"changes": [{"at": 0.8, "mix": {"a": 1, "b": 1}}]}
    training = TrainingConfig.model_validate({"token_budget": 1, "mix": {"a": 1}, "mixing": mixing})
    assert mean_shares(training, steps) == pytest.approx({"a": 0.9, "b": 0.1})
