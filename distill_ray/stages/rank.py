"""AuditTable, ProbeTable → Ranking: a stage-weighted score with intervals. No Ray."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import NormalDist, fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.core.schedule import Reassessment
from distill_ray.runtime.artifacts import Result
from distill_ray.runtime.run import Run
from distill_ray.stages.audit import INITIAL, AuditTable
from distill_ray.stages.probe import ProbeTable

VERSION = 1
STAGES = {"early": 0.0, "middle": 0.5, "late": 1.0}
"""Stage of training → the student's progress at it."""


@dataclass(frozen=True)
class Ranking(Result):
    """Every teacher's factors, and its place at each stage of training."""

    @property
    def factors(self) -> dict[str, dict[str, float]]:
        """Teacher → factor → score in [0, 1]."""
        return dict(self._data()["factors"])

    @property
    def standings(self) -> dict[str, list[dict[str, Any]]]:
        """Stage → teachers, best first, with score, interval and what decided."""
        return dict(self._data()["standings"])

    @property
    def evidence(self) -> dict[str, dict[str, Any]]:
        """Teacher → the measurements behind its factors."""
        return dict(self._data()["evidence"])

    @property
    def weights(self) -> dict[str, dict[str, float]]:
        """`early` and `late` → factor → weight; each sums to 1."""
        return dict(self._data()["weights"])

    def best(self, stage: str) -> str:
        """The teacher that leads at a stage."""
        return str(self.standings[stage][0]["teacher"])

    def reassessment(self, at_progress: tuple[float, ...], margin: float) -> Reassessment:
        """What the distillation needs to compute the ranking anew."""
        weights = self.weights
        return Reassessment(self.factors, weights["early"], weights["late"], at_progress, margin)

    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("ranking.json"))


def rank(run: Run, audited: AuditTable, probed: ProbeTable) -> Ranking:
    """Combine audits and probes."""
    identity = {
        "version": VERSION,
        "rank": run.cfg.rank,
        "audit": audited.artifact.fingerprint,
        "probe": probed.fingerprints(),
        "seed": run.cfg.seed,
    }
    artifact = run.artifact("rank", "", identity)
    if artifact.done():
        run.reused("rank")
    else:
        with run.stage("rank"), artifact.building() as building:
            result = _ranking(run.cfg, audited.rows, probed.rows())
            building.write_json("ranking.json", result)
            building.counts |= {s: rows[0]["teacher"] for s, rows in result["standings"].items()}
    return Ranking(artifact)


def _ranking(
    cfg: RunConfig, audit: Mapping[str, Any], probes: list[dict[str, Any]]
) -> dict[str, Any]:
    teachers = [teacher.name for teacher in cfg.teachers]
    trials = {n: [row for row in probes if row["teacher"] == n] for n in teachers}
    evidence = {n: _evidence(cfg, audit[n], audit[INITIAL], trials[n]) for n in teachers}
    best_gain = max(fmean(row["gain"]) for row in evidence.values())
    factors = {n: _factors(cfg, evidence[n], best_gain) for n in teachers}
    draws = _draws(cfg, evidence, np.random.default_rng(cfg.seed))
    early = core.weights(cfg.rank.early.model_dump())
    late = core.weights(cfg.rank.late.model_dump())
    standings = {
        stage: [
            asdict(row)
            for row in core.standings(
                factors, draws, early, late, progress=at, confidence=cfg.rank.confidence
            )
        ]
        for stage, at in STAGES.items()
    }
    return {
        "factors": factors,
        "weights": {"early": early, "late": late},
        "standings": standings,
        "evidence": evidence,
    }


def _evidence(
    cfg: RunConfig, row: Mapping[str, Any], initial: Mapping[str, Any], trials: list[dict[str, Any]]
) -> dict[str, Any]:
    """A teacher's measurements; tasks and domain corpora count alike."""
    tasks = list(row["tasks"].values())
    corpora = [c.name for c in cfg.corpora.sources if c.kind == "domain" and c.name in row["text"]]
    return {
        "accuracy": [task["accuracy"] for task in tasks],
        "majority": [task["majority"] for task in tasks],
        "ece": [task["ece"] for task in tasks],
        "ece_floor": [task["ece_floor"] for task in tasks],
        "domain_nll": [row["text"][name] for name in corpora],
        "untrained_nll": [initial["text"][name] for name in corpora],
        "kl_removed": [trial["kl_removed"] for trial in trials],
        "gain": [trial["gain"] for trial in trials],
    }


def _factors(cfg: RunConfig, seen: Mapping[str, Any], best_gain: float) -> dict[str, float]:
    removed, gain = fmean(seen["kl_removed"]), fmean(seen["gain"])
    peaks = [core.peak(a["value"], m) for a, m in zip(seen["accuracy"], seen["majority"])]
    domains = [core.domain(a, b) for a, b in zip(seen["domain_nll"], seen["untrained_nll"])]
    worst = cfg.rank.worst_ece
    calibrations = [
        core.calibration(e["value"], f, worst) for e, f in zip(seen["ece"], seen["ece_floor"])
    ]
    return {
        "ease": core.ease(removed, gain, best_gain),
        "peak": fmean(peaks),
        "domain": fmean(domains) if domains else 0.0,
        "calibration": fmean(calibrations),
    }


def _draws(
    cfg: RunConfig, evidence: Mapping[str, Mapping[str, Any]], rng: np.random.Generator
) -> core.Draws:
    """Factors under resampling: probes over their seeds, audits within their intervals.

    Every draw takes the same seeds for all teachers: they share the order of the rows.
    """
    count, seeds = cfg.rank.draws, len(cfg.probe.seeds)
    drawn = {n: {f: np.empty(count) for f in core.FACTORS} for n in evidence}
    for i in range(count):
        picked = rng.integers(0, seeds, size=seeds)
        seen = {
            n: _resampled(row, picked, cfg.audit.confidence, rng) for n, row in evidence.items()
        }
        best_gain = max(fmean(row["gain"]) for row in seen.values())
        for n, row in seen.items():
            for factor, value in _factors(cfg, row, best_gain).items():
                drawn[n][factor][i] = value
    return core.Draws(drawn)


def _resampled(
    seen: Mapping[str, Any], picked: NDArray[np.int64], confidence: float, rng: np.random.Generator
) -> dict[str, Any]:
    """One draw of a teacher's measurements."""
    width = 2 * NormalDist().inv_cdf(0.5 + confidence / 2)
    noisy = {
        name: [
            {"value": rng.normal(item["value"], (item["high"] - item["low"]) / width)}
            for item in seen[name]
        ]
        for name in ("accuracy", "ece")
    }
    chosen = {name: [seen[name][i] for i in picked] for name in ("kl_removed", "gain")}
    return {**seen, **noisy, **chosen}
