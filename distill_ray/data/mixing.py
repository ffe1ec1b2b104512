"""Mixing of streams: shares of tokens or rows, as exact as whole rows allow.

S steps, K streams, P positions. A pure function of the shares and of the rows' sizes, so that it is
the same on any number of workers and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count, repeat

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.training import TrainingConfig
from distill_ray.data.order import epoch_order

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

ROUNDING = 1e-6
"""By how many tokens sums of shares may be off."""


@dataclass(frozen=True)
class Mixing:
    """Streams and their shares, step by step."""

    names: tuple[str, ...]
    """Sorted: a mix is a mapping, and the order of its keys must not change that of the rows."""
    shares: Floats
    """[S, K] of each step's tokens or rows; a step's sum to 1."""
    by_tokens: bool = True
    """Shares are of tokens, padding left out; otherwise of rows."""
    restarts: frozenset[int] = frozenset()
    """Steps at which the shares change; counting restarts there."""

    def of_length(self, steps: int) -> Mixing:
        """Extend to at least so many steps with the last shares."""
        more = np.repeat(self.shares[-1:], max(0, steps - len(self.shares)), axis=0)
        return Mixing(
            self.names, np.concatenate([self.shares, more]), self.by_tokens, self.restarts
        )


def mixing(
    mix: Mapping[str, float],
    steps: int,
    *,
    by_tokens: bool = True,
    changes: Sequence[tuple[float, Mapping[str, float]]] = (),
    linear: bool = False,
) -> Mixing:
    """Compute the shares at every step.

    Args:
        mix: stream → share at the first step; shares are normalised.
        steps: of the run.
        by_tokens: shares of tokens, or of rows.
        changes: (share of the steps that are done, the mix from there on), ascending.
        linear: shares move in a straight line from one mix to the next; otherwise they jump, at the
            first step that has as much behind it.
    """
    mixes = [mix, *(later for _, later in changes)]
    names = tuple(sorted({name for each in mixes for name in each}))
    points = np.array([[each.get(name, 0.0) for name in names] for each in mixes], float)
    points /= points.sum(axis=1, keepdims=True)
    starts = np.array([0.0, *(place for place, _ in changes)])
    progress = np.arange(steps) / steps
    if linear:
        columns = [np.interp(progress, starts, points[:, k]) for k in range(len(names))]
        return Mixing(names, np.stack(columns, axis=1), by_tokens)
    shares = points[np.searchsorted(starts, progress, side="right") - 1]
    restarts = frozenset(math.ceil(round(place * steps, 9)) for place in starts[1:].tolist())
    return Mixing(names, shares, by_tokens, restarts)


def mixing_of(training: TrainingConfig, steps: int) -> Mixing:
    """Compute the shares at each of a training's steps."""
    how = training.mixing
    return mixing(
        training.mix,
        steps,
        by_tokens=how.by == "tokens",
        changes=[(change.at, change.mix) for change in how.changes],
        linear=how.interpolation == "linear",
    )


def mean_shares(training: TrainingConfig, steps: int) -> dict[str, float]:
    """Average each stream's share over all of a training's steps."""
    # Shares are a function of the part that is done: of a very long run, some steps tell it.
    sampled = mixing_of(training, min(steps, 10_000))
    return dict(zip(sampled.names, sampled.shares.mean(axis=0).tolist()))


def streams_at(
    mixed: Mixing, global_batch_size: int, tokens: Mapping[str, Ints], seed: int
) -> Ints:
    """Decide the index of the stream at each position [P].

    Worst-case fair weighted fair queueing (WF²Q, Bennett & Zhang 1996): of the streams that aren't
    ahead of their share, the one whose next row would be through first if all were served at once.
    While shares stay as they are, none is ever ahead or behind by more than the largest row; where
    rows are counted, by more than one row.

    Args:
        mixed: the shares at each step.
        global_batch_size: rows of a step.
        tokens: stream → [rows] tokens of each of its rows, padding left out.
        seed: of the order in which each stream's rows are drawn.
    """
    if len(mixed.names) == 1:
        return np.zeros(len(mixed.shares) * global_batch_size, dtype=np.int64)
    sizes = [
        _sizes(name, tokens[name], seed) if mixed.by_tokens else repeat(1.0) for name in mixed.names
    ]
    upcoming = [next(size) for size in sizes]
    ahead = [0.0] * len(sizes)
    order = []
    for step, shares in enumerate(mixed.shares.tolist()):
        if step in mixed.restarts:
            ahead = [0.0] * len(sizes)
        drawn = [(k, share) for k, share in enumerate(shares) if share > 0]
        for _ in range(global_batch_size):
            best = min(
                drawn, key=lambda d: (ahead[d[0]] > ROUNDING, (ahead[d[0]] + upcoming[d[0]]) / d[1])
            )[0]
            size = upcoming[best]
            upcoming[best] = next(sizes[best])
            for k, share in drawn:
                ahead[k] -= share * size
            ahead[best] += size
            order.append(best)
    return np.array(order, dtype=np.int64)


def _sizes(stream: str, tokens: Ints, seed: int) -> Iterator[float]:
    """Yield the tokens of a stream's rows in the order in which they are drawn, without an end."""
    epochs = (tokens[epoch_order(stream, len(tokens), seed, epoch)].tolist() for epoch in count())
    return chain.from_iterable(epochs)
