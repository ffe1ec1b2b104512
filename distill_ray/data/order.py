"""The order of a stream's rows: pure functions of seed and position.

The order doesn't depend on the number of workers: position p of the run is the same row on one
worker as on eight, and a resume needs no iterator's state (as in MosaicML Streaming's elastic
determinism).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray


def epoch_order(stream: str, rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """[rows] a stream's row numbers in the order of one epoch."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), epoch]).permutation(rows)


def shuffled(stream: str, rows: int, seed: int, draws: int) -> NDArray[np.int64]:
    """Row numbers of a stream's first draws [D]: every row once an epoch, in seeded order."""
    orders = [epoch_order(stream, rows, seed, epoch) for epoch in range(-(-draws // rows))]
    return np.concatenate([np.empty(0, np.int64), *orders])[:draws]


def rows_at(streams: NDArray[np.int64], rows: Mapping[str, int], seed: int) -> NDArray[np.int64]:
    """Number of the row in its stream at each position [P].

    Args:
        streams: [P] index of the stream at each position.
        rows: stream → how many rows it has, in the order of the indices.
        seed: of the order.
    """
    numbers = np.zeros_like(streams)
    for number, (name, count) in enumerate(rows.items()):
        here = streams == number
        numbers[here] = shuffled(name, count, seed, int(here.sum()))
    return numbers


def positions_of(
    step: int, micro: int, *, rank: int, world: int, global_batch_size: int, micro_batch_size: int
) -> range:
    """Positions that one rank reads in one micro-batch of a step."""
    start = step * global_batch_size + (micro * world + rank) * micro_batch_size
    return range(start, start + micro_batch_size)
