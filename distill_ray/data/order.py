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


def occurrence(streams: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the stream at each position came before [P]."""
    count = np.zeros_like(streams)
    for stream in np.unique(streams):
        here = streams == stream
        count[here] = np.arange(here.sum())
    return count


class Shuffle:
    """Row number of the i-th draw from a stream: every row once an epoch, in seeded order."""

    def __init__(self, stream: str, rows: int, seed: int) -> None:
        self.rows, self._key = rows, [seed, zlib.crc32(stream.encode())]
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def __getitem__(self, draw: int) -> int:
        epoch, place = divmod(draw, self.rows)
        if epoch != self._epoch:
            rng = np.random.default_rng([*self._key, epoch])
            self._epoch, self._order = epoch, rng.permutation(self.rows)
        return int(self._order[place])


def positions_of(
    step: int, micro: int, *, rank: int, world: int, batch_rows: int, micro_rows: int
) -> range:
    """Positions that one rank reads in one micro-batch of a step."""
    start = step * batch_rows + (micro * world + rank) * micro_rows
    return range(start, start + micro_rows)
