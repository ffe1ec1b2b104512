"""Which row comes when: pure functions of seed, position and shares.

The order doesn't depend on the number of workers: position p of the run is the same row on one
worker as on eight, and a resume needs no iterator's state (as in MosaicML Streaming's elastic
determinism).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

GOLDEN = (5**0.5 - 1) / 2


def streams_at(weights: Mapping[str, float], positions: int) -> NDArray[np.int64]:
    """Index of the stream at each position [P].

    A golden-ratio sequence spreads the streams evenly: after any number of positions, each
    stream's count is within a few rows of its share.
    """
    shares = np.cumsum(np.array(list(weights.values()), dtype=np.float64))
    points = np.arange(1, positions + 1, dtype=np.float64) * GOLDEN % 1.0
    found = np.searchsorted(shares / shares[-1], points, side="right")
    return np.minimum(found, len(shares) - 1)


def shuffled(stream: str, rows: int, seed: int, draws: int) -> NDArray[np.int64]:
    """Row numbers of a stream's first draws [D]: every row once an epoch, in seeded order."""
    key = [seed, zlib.crc32(stream.encode())]
    epochs = range(-(-draws // rows))
    orders = [np.random.default_rng([*key, epoch]).permutation(rows) for epoch in epochs]
    return np.concatenate([np.empty(0, np.int64), *orders])[:draws]


def rows_at(streams: NDArray[np.int64], rows: Mapping[str, int], seed: int) -> NDArray[np.int64]:
    """Number of the row in its stream at each position [P].

    Args:
        streams: [P] index of the stream at each position.
        rows: stream → how many rows it has, in the order of the indices.
        seed: of the order.
    """
    found = np.zeros_like(streams)
    for number, (name, count) in enumerate(rows.items()):
        here = streams == number
        found[here] = shuffled(name, count, seed, int(here.sum()))
    return found


def positions_of(
    step: int, micro: int, *, rank: int, world: int, batch_rows: int, micro_rows: int
) -> range:
    """Positions that one rank reads in one micro-batch of a step."""
    start = step * batch_rows + (micro * world + rank) * micro_rows
    return range(start, start + micro_rows)
