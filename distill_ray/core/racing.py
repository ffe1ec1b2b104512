"""When to stop comparing teachers, and which trials come next. K teachers, D draws.

A race looks at all teachers after each wave of trials, closes those that have lost, and runs
another seed for those still open, until one is left or the budget is spent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Race:
    """State of a race: who may still win."""

    candidates: tuple[str, ...]
    """The leader, then those that may still beat it, likeliest first."""
    probability_best: Mapping[str, float]
    confidence: float

    @property
    def leader(self) -> str:
        """The teacher with the highest median, apart from what all draws have in common."""
        return self.candidates[0]

    @property
    def separated(self) -> bool:
        """True when only the leader is left."""
        return len(self.candidates) == 1

    def __str__(self) -> str:
        """`separated at 95 %`, or `too close to call between a, b`."""
        if self.separated:
            return f"separated at {100 * self.confidence:g} %"
        return f"too close to call between {', '.join(self.candidates)}"


def decide(draws: Mapping[str, Floats], *, confidence: float = 0.95, num_looks: int = 1) -> Race:
    """Decide which teachers may still be the best.

    A teacher is closed when the probability that it beats the leader is at most
    (1 - confidence) / (K - 1) / looks. The best teacher is closed wrongly only if one of its
    K - 1 rivals seems to beat it by that much at one of the looks, so over the whole race that
    happens with probability at most 1 - confidence (Bonferroni over rivals and looks). That
    speaks of the leader, not of a difference: of exactly equal teachers each may be closed so
    often. The probability of being best would not do instead: it is small for all of many equals.

    Give all teachers at every look, closed ones too: they keep K and the pooled noise, and one
    that was closed by chance may open again. Equal draws count as half a win.

    Args:
        draws: teacher → joint draws [D] of its score, higher is better.
        confidence: probability that the best teacher is never closed.
        num_looks: number of times the race is judged in all.

    Raises:
        ValueError: no teacher, or too few draws to close any at this confidence.
    """
    if not draws:
        raise ValueError("a race needs at least one teacher")
    names = list(draws)
    sampled = np.stack([draws[n] for n in names])  # [K, D]
    if len(names) == 1:
        return Race((names[0],), {names[0]: 1.0}, confidence)
    level = (1 - confidence) / (len(names) - 1) / num_looks
    needed = math.ceil(1 / level)
    if sampled.shape[1] < needed:
        raise ValueError(
            f"{sampled.shape[1]} draws cannot close one of {len(names)} teachers at "
            f"{100 * confidence:g} % in {num_looks} looks: give {needed} or more, better ten "
            "times that"
        )
    order = np.argsort(-np.median(sampled - sampled.mean(axis=0), axis=1), kind="stable")
    lead = sampled[order[0]]
    beats = {k: _share_above(sampled[k], lead) for k in order[1:]}
    rivals = sorted((k for k in beats if beats[k] > level), key=lambda k: -beats[k])
    won = sampled == sampled.max(axis=0)
    # The share of draws that each teacher wins; equals share a win.
    probability_best = (won / won.sum(axis=0)).mean(axis=1).tolist()
    return Race(
        candidates=tuple(names[k] for k in (order[0], *rivals)),
        probability_best=dict(zip(names, probability_best)),
        confidence=confidence,
    )


def next_seeds(
    candidates: Collection[str],
    seeds_done: Mapping[str, set[int]],
    max_seeds: int,
) -> list[tuple[str, int]]:
    """Plan the next wave: one seed, the same for all open teachers, so that they stay paired.

    A seed that some teacher has run and an open one has not comes first, so a teacher that opens
    again catches up; otherwise the seed is one above all that were run, or 0.

    Args:
        candidates: names of the teachers still in the race.
        seeds_done: teacher → seeds of its trials, failed ones too; closed teachers too.
        max_seeds: most seeds of one teacher.

    Returns:
        Teacher and seed of each trial; empty when one teacher is left or an open one cannot run
        another seed within `max_seeds`.
    """
    if len(candidates) < 2:
        return []
    seeds_by_teacher = {n: seeds_done.get(n, set()) for n in candidates}
    known_seeds = sorted(set().union(*seeds_done.values()))
    for seed in [*known_seeds, known_seeds[-1] + 1 if known_seeds else 0]:
        lacking = [n for n in candidates if seed not in seeds_by_teacher[n]]
        if lacking and all(len(seeds_by_teacher[n]) < max_seeds for n in lacking):
            return [(n, seed) for n in lacking]
    return []


def _share_above(values: Floats, lead: Floats) -> float:
    """Estimate how often a teacher beats the leader, over the draws and one win more.

    As in a Monte-Carlo p-value, it is never 0 for want of draws.
    """
    wins = np.count_nonzero(values > lead) + 0.5 * np.count_nonzero(values == lead)
    return float((wins + 1) / (len(lead) + 1))
