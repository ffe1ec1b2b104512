"""The ranking's result: scores of the teachers by phase of training."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from distill_ray.core import ranking as core
from distill_ray.core.intervals import Interval
from distill_ray.core.ranking import LeaderboardEntry
from distill_ray.core.schedule import RankingWeights
from distill_ray.runtime.artifacts import Result
from distill_ray.stages.results.record import Record

RANKING = "ranking.json"
DRAWS = "draws.npz"

PHASES = {"early": 0.0, "middle": 0.5, "late": 1.0}
"""Phase of training → the student's progress at it. Weights are linear in progress, so the score
at the middle is also the mean over a whole training."""


class TaughtMetrics(Record):
    """Metrics of what a teacher would teach on a task: its answers mixed with the control's."""

    accuracy: float
    nll: float
    brier: float


class TeacherEvidence(Record):
    """The measurements behind a teacher's factors."""

    accuracy: list[Interval]
    """One for each task, as are `ece` and `ece_floor`."""
    ece: list[Interval]
    ece_floor: list[float]
    text: dict[str, float]
    """Corpus → its NLL, nats per token."""
    domain_nll: list[float]
    """NLL of each domain corpus, nats per token."""
    untrained_nll: list[float]
    """NLL of the initial student on the same corpora."""
    seeds: list[int]
    """Seeds of its probes; the three lists that follow have the same order."""
    kl_moved: list[float]
    kl_removed: list[float]
    gain: list[float]
    taught: list[TaughtMetrics]
    """What it would teach, one for each task."""


class RankingRecord(Record):
    """`ranking.json`."""

    factors: dict[str, dict[str, float]]
    """Teacher → factor → score in [0, 1]."""
    weights: dict[str, dict[str, float]]
    """`early` and `late` → factor → weight; each sums to 1."""
    leaderboard: dict[str, list[LeaderboardEntry]]
    """Phase → teachers, best first."""
    verdicts: dict[str, str]
    """Phase → `separated at …`, or `too close to call between …`."""
    evidence: dict[str, TeacherEvidence]
    """Teacher → the measurements behind its factors."""
    ineligible: dict[str, list[str]]
    """Teacher that can't serve → why not."""
    failed: dict[str, str]
    """Teacher that isn't ranked, since something of it failed → what."""
    temperatures: dict[str, float]
    """Teacher → the temperature that the audit fitted."""


@dataclass(frozen=True)
class Ranking(Result):
    """Every teacher's factors, and its place at each phase of training."""

    @property
    def factors(self) -> dict[str, dict[str, float]]:
        """Teacher → factor → score in [0, 1]."""
        return self.record.factors

    @property
    def leaderboard(self) -> dict[str, list[LeaderboardEntry]]:
        """Phase → teachers, best first, with score, interval and what decided."""
        return self.record.leaderboard

    @property
    def verdicts(self) -> dict[str, str]:
        """Phase → `separated at …`, or `too close to call between …`."""
        return self.record.verdicts

    @property
    def evidence(self) -> dict[str, TeacherEvidence]:
        """Teacher → the measurements behind its factors."""
        return self.record.evidence

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """`early` and `late` → factor → weight; each sums to 1."""
        return self.record.weights

    @property
    def ineligible(self) -> dict[str, list[str]]:
        """Teacher that can't serve → why not."""
        return self.record.ineligible

    @property
    def failed(self) -> dict[str, str]:
        """Teacher that isn't ranked, since something of it failed → what."""
        return self.record.failed

    @property
    def temperatures(self) -> dict[str, float]:
        """Teacher → the temperature that the audit fitted."""
        return self.record.temperatures

    @property
    def eligible(self) -> list[str]:
        """Teachers that may teach, best first at the middle; all of them if none is eligible."""
        names = [entry.teacher for entry in self.leaderboard["middle"]]
        return [name for name in names if name not in self.ineligible] or names

    def at(self, progress: float) -> list[LeaderboardEntry]:
        """The leaderboard at any progress of the student.

        Args:
            progress: 0 for a student that knows nothing, 1 for one that is as good as the best
                teacher.
        """
        with np.load(io.BytesIO(self.artifact.read_bytes(DRAWS))) as arrays:
            rows = {n: arrays[f"teacher:{n}"].astype(np.float64) for n in self.factors}
        draws = {n: dict(zip(core.FACTORS, row)) for n, row in rows.items()}
        return core.leaderboard(
            self.factors,
            core.Draws(draws),
            self.weights["early"],
            self.weights["late"],
            progress=progress,
            confidence=float(self.artifact.identity["rank"]["confidence"]),
        )

    def best(self, phase: str) -> str:
        """The teacher that leads at a phase, of those that may teach."""
        eligible = self.eligible
        names = (entry.teacher for entry in self.leaderboard[phase])
        return next(name for name in names if name in eligible)

    @property
    def ranking_weights(self) -> RankingWeights:
        """Factors of the teachers that may teach: what a distillation reassesses them with."""
        weights, factors = self.weights, {n: self.factors[n] for n in self.eligible}
        return RankingWeights(factors, weights["early"], weights["late"])

    @cached_property
    def record(self) -> RankingRecord:
        """The file, read once."""
        return RankingRecord.read(self.artifact, RANKING)
