"""Teacher effects separated from seed effects. K teachers, S seeds, n trials, D draws.

A seed orders the rows in the same way for every teacher, so it lifts or lowers them together. The
two-way additive model y[k, s] = mu + teacher[k] + seed[s] + e takes that common part out: what is
left, e, is the only noise in a difference between teachers (randomised blocks, Cochran & Cox 1957,
chapter 4). Races give some teachers more seeds, so the fit is by least squares, not by averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Cell = tuple[str, int]
"""A trial: teacher and seed."""

ROUNDING = 1e-6
"""Noise that every figure has, as a share of its largest absolute value."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Teachers on a common seed footing."""

    means: Mapping[str, float]
    """Teacher → mean at the average effect of the seeds, also of those that it did not run."""
    residual_variance: float
    """Variance of e, pooled over teachers; not below the floor."""
    df: int
    """Degrees of freedom of `residual_variance`."""
    covariance: Floats
    """[K, K] estimated covariance of the means, in their order. The seeds count as given: what they
    have in common moves all levels together, no difference, and is not in it."""
    floored: bool
    """True where the seeds changed less than the figure can show."""

    @property
    def teachers(self) -> tuple[str, ...]:
        """Names of the teachers, in the order of their first trials."""
        return tuple(self.means)

    def draws(self, count: int, rng: np.random.Generator) -> dict[str, Floats]:
        """Draw the teachers' means jointly, [D] each: multivariate t with `df` degrees of freedom.

        Percentiles of differences between teachers are their paired t intervals. With a flat prior
        on means and log variance this is the posterior, so a share of draws is a probability.
        """
        noise = rng.standard_normal((count, len(self.means)))
        chi2 = rng.chisquare(self.df, size=count)
        spread = noise @ np.linalg.cholesky(self.covariance).T * np.sqrt(self.df / chi2)[:, None]
        return {n: mean + spread[:, k] for k, (n, mean) in enumerate(self.means.items())}


def additive(values: Mapping[Cell, float], *, resolution: float = 0.0) -> Effects:
    """Fit the additive model to one figure of the trials.

    Trials that agree to the last digit do not show a noise of zero, only one below what can be
    seen, so the variance has a floor: of rounding to `resolution` (resolution² / 12), and of
    arithmetic (a millionth of the largest value, squared). Teachers further apart than that are
    then told apart, teachers closer are not.

    With one teacher a seed's effect cannot be told from noise: its mean is the plain one, and
    its variance that between seeds.

    Args:
        values: (teacher, seed) → figure; a teacher need not have run all seeds.
        resolution: smallest step of the figure, such as 1 / questions for an accuracy.

    Raises:
        ValueError: no trial, a figure that is not finite, nothing left to measure the noise with,
            or teachers that share no seed.
    """
    if not values:
        raise ValueError("no trial: run each teacher under two seeds at least")
    if bad := [cell for cell, value in values.items() if not np.isfinite(value)]:
        names = ", ".join(f"{teacher} seed {seed}" for teacher, seed in bad)
        raise ValueError(f"trials without a finite value: {names}; leave them out")
    teachers = list(dict.fromkeys(teacher for teacher, _ in values))
    design = _design(list(values), teachers)
    df = len(values) - design.shape[1]
    if df == 0:
        seeds = len({seed for _, seed in values})
        raise ValueError(
            f"{len(values)} trials of {len(teachers)} teachers under {seeds} seeds leave nothing "
            "to measure the noise with; run two seeds at least for two or more teachers (one "
            "teacher alone: two seeds)"
        )
    y = np.array(list(values.values()), dtype=np.float64)
    fitted = np.linalg.lstsq(design, y, rcond=None)[0]
    residuals = y - design @ fitted
    floor = resolution**2 / 12 + (ROUNDING * max(float(np.abs(y).max()), 1e-30)) ** 2
    measured = float(residuals @ residuals) / df
    variance, k = max(measured, floor), len(teachers)
    return Effects(
        means={n: float(m) for n, m in zip(teachers, fitted)},
        residual_variance=variance,
        df=df,
        covariance=variance * np.linalg.inv(design.T @ design)[:k, :k],
        floored=measured < floor,
    )


def _design(cells: Sequence[Cell], teachers: Sequence[str]) -> Floats:
    """[n, columns] of full rank: K teachers, then seeds coded to sum to zero over the S seeds.

    With that coding a teacher's coefficient is its mean at the average seed effect.
    """
    place = {n: k for k, n in enumerate(teachers)}
    by_teacher = np.eye(len(teachers))[[place[n] for n, _ in cells]]  # [n, K]
    if len(teachers) == 1:
        return by_teacher
    seeds = sorted({seed for _, seed in cells})
    coding = np.vstack([np.eye(len(seeds) - 1), -np.ones(len(seeds) - 1)])  # [S, S - 1]
    by_seed = coding[[seeds.index(seed) for _, seed in cells]]
    design = np.hstack([by_teacher, by_seed])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        raise ValueError(
            "some teachers share no seed with the others, not even through a third teacher, so "
            "they cannot be compared; run one seed for all of them"
        )
    return design
