"""Rows of unequal length: each comes once an epoch, beside others of its length, on any number of
workers."""

from collections import Counter

import numpy as np
import pytest

from distill_ray.data.grouping import BLOCK, grouped
from distill_ray.data.mixing import mixing, streams_at
from distill_ray.data.order import BatchLayout, rows_at

ONE = {"a": 1.0}
THREE = {"a": 3.0, "b": 6.0, "c": 1.0}


def lengths(mix, count=1500, low=20, high=200):
    """Lengths that are spread evenly over the orders of magnitude."""
    rng = np.random.default_rng(0)
    return {
        name: np.exp(rng.uniform(np.log(low), np.log(high), count + 7 * i)).astype(np.int64)
        for i, name in enumerate(mix)
    }


def drawn(
    rows, mix, *, steps=2 * BLOCK, global_batch_size=32, micro_batch_size=8, seed=0, by_tokens=False
):
    mixed = mixing(mix, steps, by_tokens=by_tokens)
    return grouped(
        rows,
        mixed,
        global_batch_size=global_batch_size,
        micro_batch_size=micro_batch_size,
        seed=seed,
    )


def padding(rows, mix, streams, numbers, micro_batch_size):
    """Share of a micro-batch's tokens that are padding."""
    names = list(mix)
    tokens = np.array([rows[names[s]][n] for s, n in zip(streams, numbers, strict=True)])
    tokens = tokens.reshape(-1, micro_batch_size)
    return 1 - tokens.sum() / (tokens.max(axis=1) * micro_batch_size).sum()


@pytest.mark.parametrize("mix", [ONE, THREE])
def test_every_row_comes_once_in_every_epoch(mix):
    rows = lengths(mix, count=50)
    streams, numbers = drawn(rows, mix, global_batch_size=8, micro_batch_size=4)
    for i, name in enumerate(mix):
        mine = numbers[streams == i]
        often = Counter(mine.tolist())
        epochs = len(mine) / len(rows[name])
        assert epochs > 1
        assert set(often.values()) <= {int(epochs), int(epochs) + 1}


def test_the_draws_of_an_epoch_and_block_stay_in_it():
    rows = lengths(ONE, count=BLOCK * 8)
    _, numbers = drawn(rows, ONE, steps=2 * BLOCK, global_batch_size=8, micro_batch_size=4)
    assert sorted(numbers[: BLOCK * 8]) == sorted(numbers[BLOCK * 8 :]) == list(range(BLOCK * 8))


def test_no_row_moves_to_another_block():
    count = 3 * BLOCK * 8
    rows = lengths(ONE, count=count)
    _, numbers = drawn(rows, ONE, steps=3 * BLOCK, global_batch_size=8, micro_batch_size=4)
    ungrouped = rows_at(np.zeros(count, dtype=np.int64), {"a": count}, 0)
    for block, expected in zip(numbers.reshape(3, -1), ungrouped.reshape(3, -1), strict=True):
        assert sorted(block) == sorted(expected)


@pytest.mark.parametrize("global_batch_size", [8, 32])
@pytest.mark.parametrize("by_tokens", [False, True])
def test_a_step_reads_as_many_rows_of_each_stream_as_without_grouping(global_batch_size, by_tokens):
    rows = lengths(THREE)
    streams, _ = drawn(rows, THREE, global_batch_size=global_batch_size, by_tokens=by_tokens)
    mixed = mixing(THREE, len(streams) // global_batch_size, by_tokens=by_tokens)
    expected = streams_at(mixed, global_batch_size, rows, 0)
    found, expected = (np.sort(s.reshape(-1, global_batch_size)) for s in (streams, expected))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("world", [2, 4])
def test_a_micro_batch_is_the_same_on_any_number_of_workers(world):
    rows = lengths(THREE)
    _, numbers = drawn(rows, THREE)
    for step in (0, 5, BLOCK):
        alone = [BatchLayout(32, 8).positions(step, m) for m in range(4)]
        shared = [
            BatchLayout(32, 8, rank, world).positions(step, m)
            for m in range(4 // world)
            for rank in range(world)
        ]
        assert [numbers[p].tolist() for p in shared] == [numbers[p].tolist() for p in alone]


@pytest.mark.parametrize(
    ("mix", "global_batch_size", "micro_batch_size", "most"),
    [(ONE, 32, 8, 0.02), (ONE, 8, 8, 0.03), (THREE, 32, 8, 0.07), (THREE, 12, 6, 0.1)],
)
def test_little_of_a_micro_batch_is_padding(mix, global_batch_size, micro_batch_size, most):
    rows = lengths(mix)
    found = drawn(rows, mix, global_batch_size=global_batch_size, micro_batch_size=micro_batch_size)
    mixed = mixing(mix, len(found[0]) // global_batch_size, by_tokens=False)
    streams = streams_at(mixed, global_batch_size, rows, 0)
    at_random = rows_at(streams, {name: len(rows[name]) for name in mix}, 0)
    assert padding(rows, mix, streams, at_random, micro_batch_size) > 0.4
    assert padding(rows, mix, *found, micro_batch_size) < most


def test_long_texts_and_short_questions_go_to_different_micro_batches():
    mix = {"questions": 1.0, "text": 1.0}
    rows = {
        "questions": lengths(ONE, low=20, high=60)["a"],
        "text": lengths(ONE, low=100, high=200)["a"],
    }
    assert padding(rows, mix, *drawn(rows, mix), 8) < 0.05


def test_every_step_reads_short_and_long_rows():
    rows = lengths(ONE)
    _, numbers = drawn(rows, ONE)
    by_step = rows["a"][numbers].reshape(-1, 32)
    means = by_step.mean(axis=1)
    assert means.std() / means.mean() < 0.15
    assert (by_step.max(axis=1) / by_step.min(axis=1) > 3).all()


def test_the_first_micro_batch_of_a_step_is_the_longest():
    rows = lengths(THREE)
    streams, numbers = drawn(rows, THREE)
    tokens = np.array([rows[list(THREE)[s]][n] for s, n in zip(streams, numbers, strict=True)])
    assert (np.diff(tokens.reshape(-1, 32), axis=1) <= 0).all()


def test_a_longer_run_begins_like_a_shorter_one():
    rows = lengths(THREE, count=100)
    short, long = (drawn(rows, THREE, steps=steps) for steps in (10, 3 * BLOCK))
    for one, other in zip(short, long, strict=True):
        np.testing.assert_array_equal(one, other[: len(one)])


def test_seeds_are_different_orders():
    rows = lengths(ONE)
    assert drawn(rows, ONE, seed=0)[1].tolist() != drawn(rows, ONE, seed=1)[1].tolist()


def test_a_stream_that_is_not_drawn_is_no_trouble():
    rows = lengths({"a": 1.0, "later": 1.0}, count=20)
    mixed = mixing({"a": 1.0}, BLOCK, changes=[(0.999, {"later": 1.0})])
    streams, _ = grouped(rows, mixed, global_batch_size=2, micro_batch_size=1, seed=0)
    assert set(streams.tolist()) == {0}


def test_tokens_are_in_their_shares_at_the_end_of_every_block_of_an_epoch():
    rows = lengths({"a": 1.0, "b": 1.0}, count=BLOCK * 64)
    streams, numbers = drawn(rows, {"a": 1.0, "b": 1.0}, steps=4 * BLOCK, by_tokens=True)
    tokens = np.array([rows["ab"[s]][n] for s, n in zip(streams, numbers, strict=True)])
    # Rows are exchanged within a block, so a block holds what it would hold without grouping.
    signed = np.where(streams == 0, tokens, -tokens).reshape(4, -1).sum(axis=1)
    lead = np.cumsum(signed) / 2
    assert np.abs(lead).max() <= 200


@pytest.mark.parametrize("mix", [ONE, THREE])
def test_no_row_changes_places_with_one_of_another_epoch(mix):
    """Each stream has fewer rows than a block reads, so epochs begin within blocks."""
    rows = lengths(mix, count=50)
    streams, numbers = drawn(rows, mix, global_batch_size=8, micro_batch_size=4)
    step_at = np.arange(len(numbers)) // 8
    for i, name in enumerate(mix):
        here, count = streams == i, len(rows[name])
        # Which epoch a draw is of is known without grouping: draws of a step are of one or of two.
        steps, drawn_rows = step_at[here], numbers[here]
        for start in range(0, len(drawn_rows) - count + 1, count):
            inner = (steps > steps[start]) & (steps < steps[min(start + count, len(steps) - 1)])
            inside = drawn_rows[inner].tolist()
            assert len(inside) == len(set(inside)), "a row comes twice within one epoch"
