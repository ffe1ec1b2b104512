"""The order of a stream's rows: pure functions of seed and position.

The order doesn't depend on the number of workers: position p of the run is the same row on one
worker as on eight, and a resume needs no iterator's state (as in MosaicML Streaming's elastic
determinism).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def epoch_order(stream: str, rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order a stream's row numbers for one epoch, [rows]."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode()), epoch]).permutation(rows)


def shuffled(stream: str, rows: int, seed: int, draws: int) -> NDArray[np.int64]:
    """List the rows of a stream's first draws [D]: every row once an epoch, in seeded order."""
    orders = [epoch_order(stream, rows, seed, epoch) for epoch in range(-(-draws // rows))]
    return np.concatenate([np.empty(0, np.int64), *orders])[:draws]


def rows_at(streams: NDArray[np.int64], rows: Mapping[str, int], seed: int) -> NDArray[np.int64]:
    """Give the number of the row in its stream at each position [P].

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


@dataclass(frozen=True)
class BatchLayout:
    """How the rows of a step are cut into micro-batches over the ranks."""

    global_batch_size: int
    """Rows of a step, over all ranks."""
    micro_batch_size: int
    """Rows of a forward pass."""
    rank: int = 0
    world: int = 1
    """Number of ranks."""

    def __post_init__(self) -> None:
        if self.global_batch_size % (self.world * self.micro_batch_size):
            raise ValueError(
                f"{self.global_batch_size} rows can't be cut into "
                f"{self.world} x {self.micro_batch_size}"
            )

    @property
    def num_micro(self) -> int:
        """Micro-batches of a step on each rank."""
        return self.global_batch_size // (self.world * self.micro_batch_size)

    def positions(self, step: int, micro: int) -> range:
        """List the positions that this rank reads in one micro-batch of a step."""
        start = (
            step * self.global_batch_size + (micro * self.world + self.rank) * self.micro_batch_size
        )
        return range(start, start + self.micro_batch_size)
