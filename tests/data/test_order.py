"""Which row comes when: pure, and the same on any number of ranks."""

from collections import Counter

import numpy as np
import pytest

from distill_ray.data.order import BatchLayout, rows_at, shuffled


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_all_ranks_together_read_what_one_rank_reads(world, micro_batch_size):
    for step in (0, 1, 7):
        read = [
            position
            for micro in range(8 // (world * micro_batch_size))
            for rank in range(world)
            for position in BatchLayout(8, micro_batch_size, rank, world).positions(step, micro)
        ]
        assert read == list(range(8 * step, 8 * step + 8))


def test_each_stream_is_drawn_in_its_own_order_wherever_the_others_come():
    streams = np.array([0, 1, 0, 0, 2, 1])
    found = rows_at(streams, {"a": 4, "b": 3, "c": 2}, 7)
    assert found[streams == 0].tolist() == shuffled("a", 4, 7, 3).tolist()
    assert found[streams == 1].tolist() == shuffled("b", 3, 7, 2).tolist()
    assert found[streams == 2].tolist() == shuffled("c", 2, 7, 1).tolist()


def test_every_row_comes_once_in_every_epoch():
    epochs = shuffled("notes", 37, 0, 4 * 37).reshape(4, 37)
    assert all(sorted(epoch) == list(range(37)) for epoch in epochs.tolist())
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 4


def test_more_draws_begin_with_those_of_fewer():
    whole = shuffled("notes", 11, 3, 44)
    for draws in (0, 1, 11, 12, 43):
        assert shuffled("notes", 11, 3, draws).tolist() == whole[:draws].tolist()


def test_seed_and_stream_decide_the_order():
    orders = {
        (stream, seed): tuple(shuffled(stream, 50, seed, 50).tolist())
        for stream in ("a", "b")
        for seed in (0, 1)
    }
    assert len(set(orders.values())) == 4


def test_the_first_draws_are_spread_evenly_over_the_rows():
    first = Counter(int(shuffled("s", 5, seed, 1)[0]) for seed in range(2000))
    assert all(abs(first[row] - 400) < 5 * np.sqrt(2000 * 0.2 * 0.8) for row in range(5))
