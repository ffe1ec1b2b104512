"""Group rows of unequal length, so that a micro-batch's rows have similar lengths.

P positions, S steps, G micro-batches in a step, K steps in a block.

What a step reads stays as it is with rows of equal length: so many rows of each stream, each row
once an epoch, every length in its share. Only which row comes in which step of a block is changed:
each micro-batch of the block is given a level, and each stream's rows, sorted by length, go to the
micro-batches in the order of their levels. The order depends on the micro-batch's size and not on
the number of workers, and workers that compute at the same time get neighbouring lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill_ray.data.mixing import Mixing, streams_at
from distill_ray.data.order import shuffled

BLOCK = 64
"""Steps among which rows are exchanged; more would hardly make micro-batches more even."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def grouped(
    lengths: Mapping[str, Ints],
    mixed: Mixing,
    *,
    global_batch_size: int,
    micro_batch_size: int,
    seed: int,
) -> tuple[Ints, Ints]:
    """Order the rows: index of the stream in the mix, and number of the row in it, [P] each.

    Args:
        lengths: stream → [rows] length of each of its rows.
        mixed: the streams' shares at each step of the run.
        global_batch_size: rows of a step.
        micro_batch_size: rows of a micro-batch.
        seed: of the order.
    """
    # Whole blocks: a longer run begins like a shorter one.
    mixed = mixed.of_length(-(-len(mixed.shares) // BLOCK) * BLOCK)
    stream_at = streams_at(mixed, global_batch_size, lengths, seed)
    step_at = np.arange(len(stream_at)) // global_batch_size
    level = _levels(
        [lengths[name] for name in mixed.names],
        stream_at,
        global_batch_size,
        micro_batch_size,
        seed,
    )
    row_at, length_at = np.zeros_like(stream_at), np.zeros_like(stream_at)
    for number, name in enumerate(mixed.names):
        here = np.flatnonzero(stream_at == number)
        rows = shuffled(name, len(lengths[name]), seed, len(here))
        epoch, block = np.arange(len(here)) // len(lengths[name]), step_at[here] // BLOCK
        # In each epoch and block, the next longer row goes to the next level.
        by_level = np.lexsort((level[here], block, epoch))
        by_length = np.lexsort((lengths[name][rows], block, epoch))
        row_at[here[by_level]] = rows[by_length]
        length_at[here] = lengths[name][row_at[here]]
    # Long rows first: what a step needs in memory is known at its first micro-batch.
    in_step = np.lexsort((-length_at, step_at))
    return stream_at[in_step], row_at[in_step]


def _levels(
    lengths: Sequence[Ints],
    stream_at: Ints,
    global_batch_size: int,
    micro_batch_size: int,
    seed: int,
) -> Floats:
    """Compute what each position's row is sorted by [P]: the level of its micro-batch.

    A step's positions go to its micro-batches in the order of the lengths that they would have if
    the step drew evenly from short to long rows, so rows of long texts and of short questions go
    to different ones.
    """
    step_at = np.arange(len(stream_at)) // global_batch_size
    steps, num_micro = len(stream_at) // global_batch_size, global_batch_size // micro_batch_size
    expected = np.zeros(len(stream_at))
    for number, of_stream in enumerate(lengths):
        here = np.flatnonzero(stream_at == number)
        shift = np.random.default_rng([seed, number]).random(steps)
        expected[here] = _evenly(np.sort(of_stream), step_at[here], shift)
    micro = np.zeros_like(stream_at)
    micro[np.lexsort((expected, step_at))] = (
        np.arange(len(stream_at)) % global_batch_size // micro_batch_size
    )
    # Within a block, the micro-batches of the same number get all levels of their range once.
    ranks = np.tile(np.arange(BLOCK), (steps // BLOCK, num_micro, 1))  # [S / K, G, K]
    ranks = np.random.default_rng([seed, len(lengths)]).permuted(ranks, axis=-1)
    place = ranks.swapaxes(1, 2).reshape(steps, num_micro) / BLOCK
    level: Floats = micro + place[step_at, micro]
    return level


def _evenly(lengths: Ints, step_at: Ints, shift: Floats) -> Ints:
    """Draw lengths that are spread evenly over the sorted lengths in every step [D].

    A random shift keeps a step's only draw from a stream from always being of medium length.
    """
    first = np.searchsorted(step_at, step_at, "left")
    count = np.searchsorted(step_at, step_at, "right") - first
    share = (np.arange(len(step_at)) - first + shift[step_at]) / count
    return lengths[(share * len(lengths)).astype(np.int64)]
