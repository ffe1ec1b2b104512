"""The ranking's result: scores of the teachers by phase of training."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distill_ray.core import ranking as core
from distill_ray.core.schedule import RankingWeights
from distill_ray.runtime.artifacts import Result

DRAWS = "draws.npz"


PHASES = {"early": 0.0, "middle": 0.5, "late": 1.0}
"""Stage of training → the student's progress at it. Weights are linear in progress, so the score
at the middle is also the mean over a whole training."""


@dataclass(frozen=True)
class Ranking(Result):
    """Every teacher's factors, and its place at each stage of training."""

    @property
    def factors(self) -> dict[str, dict[str, float]]:
        """Teacher → factor → score in [0, 1]."""
        return dict(self._data["factors"])

    @property
    def standings(self) -> dict[str, list[dict[str, Any]]]:
        """Stage → teachers, best first, with score, interval and what decided."""
        return dict(self._data["standings"])

    @property
    def calls(self) -> dict[str, str]:
        """Stage → `separated at …`, or `too close to call between …`."""
        return dict(self._data["calls"])

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Teacher → the measurements behind its factors."""
        return dict(self._data["evidence"])

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """`early` and `late` → factor → weight; each sums to 1."""
        return dict(self._data["weights"])

    @property
    def marks(self) -> dict[str, list[str]]:
        """Teacher that can't serve → why not."""
        return dict(self._data["marks"])

    @property
    def left_out(self) -> dict[str, str]:
        """Teacher that isn't ranked, since something of it failed → what."""
        return dict(self._data["left_out"])

    @property
    def temperatures(self) -> dict[str, float]:
        """Teacher → the temperature that the audit fitted."""
        return dict(self._data["temperatures"])

    @property
    def serving(self) -> list[str]:
        """Teachers that may teach, best first at the middle: those without a mark, or all if every
        one has some."""
        names = [row["teacher"] for row in self.standings["middle"]]
        return [name for name in names if name not in self.marks] or names

    def at(self, progress: float) -> list[dict[str, Any]]:
        """The standings at any progress of the student, as `standings` has them.

        Args:
            progress: 0 for a student that knows nothing, 1 for one that is as good as the best
                teacher.
        """
        with np.load(io.BytesIO(self.artifact.read_bytes(DRAWS))) as stored:
            arrays = {n: stored[f"teacher:{n}"].astype(np.float64) for n in self.factors}
        draws = {n: dict(zip(core.FACTORS, rows)) for n, rows in arrays.items()}
        early, late = self.weights["early"], self.weights["late"]
        confidence = float(self.artifact.identity["rank"]["confidence"])
        found = core.leaderboard(
            self.factors, core.Draws(draws), early, late, progress=progress, confidence=confidence
        )
        return [asdict(row) for row in found]

    def best(self, stage: str) -> str:
        """The teacher that leads at a stage, of those that may teach."""
        allowed = self.serving
        names = (str(row["teacher"]) for row in self.standings[stage])
        return next(name for name in names if name in allowed)

    @property
    def weighted(self) -> RankingWeights:
        """The factors of those that may teach: what a distillation ranks anew with."""
        weights, factors = self.weights, {n: self.factors[n] for n in self.serving}
        return RankingWeights(factors, weights["early"], weights["late"])

    @cached_property
    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("ranking.json"))
