"""AuditTable, probes → the factors of every teacher, and draws of them. No Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.run import RunConfig
from distill_ray.core import ranking as core
from distill_ray.core.effects import additive_figures
from distill_ray.stages.audit import INITIAL, AuditTable
from distill_ray.stages.trials import Trials

Row = dict[str, Any]
PROBED = ("kl_removed", "gain")
"""Figures of a probe that factors are made from."""
ENOUGH = 2
"""Probes that a teacher needs: one alone says nothing of its own noise."""


@dataclass(frozen=True)
class Evidence:
    """What audits and probes say of every teacher that has both."""

    rows: dict[str, Row]
    """Teacher → the measurements."""
    factors: dict[str, dict[str, float]]
    """Teacher → factor → score in [0, 1]."""
    draws: core.Draws
    """The same under resampling: probes over seeds, audits within their intervals."""
    left_out: dict[str, str]
    """Teacher without enough of them → why."""

    @property
    def teachers(self) -> list[str]:
        """Those that can be ranked."""
        return list(self.rows)


def gather(cfg: RunConfig, audited: AuditTable, probes: Trials) -> Evidence:
    """Put audits and probes together.

    The probes' figures come from the additive model of teachers and seeds (see `core.effects`),
    so that differences between teachers have the noise that is left when they share their seeds.
    """
    ended: dict[str, list[Row]] = {}
    for row in probes.rows():
        ended.setdefault(row["teacher"], []).append(row)
    names = [n for n in audited.rows if len(ended.get(n, [])) >= ENOUGH]
    rows = {n: _row(cfg, audited.rows[n], audited.rows[INITIAL], ended[n]) for n in names}
    left_out = _left_out(cfg, audited, probes, ended)
    if not rows:
        return Evidence({}, {}, core.Draws({}), left_out)
    trials = {(n, t["seed"]): {f: t[f] for f in PROBED} for n in names for t in ended[n]}
    effects = additive_figures(trials)
    means = {f: effects.effects[f].means for f in PROBED}
    rng = np.random.default_rng(cfg.seed)
    drawn = effects.draws(cfg.rank.draws, rng)
    noisy = {n: _noisy(row, cfg, rng) for n, row in rows.items()}
    factors = _factors(cfg, rows, {n: _audited(row) for n, row in rows.items()}, means)
    return Evidence(
        rows=rows,
        factors={n: {f: float(v) for f, v in row.items()} for n, row in factors.items()},
        draws=core.Draws(
            {
                n: {f: np.broadcast_to(v, cfg.rank.draws) for f, v in row.items()}
                for n, row in _factors(cfg, rows, noisy, drawn).items()
            }
        ),
        left_out=left_out,
    )


def _row(
    cfg: RunConfig, row: Mapping[str, Any], initial: Mapping[str, Any], trials: Sequence[Row]
) -> Row:
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
        "seeds": [trial["seed"] for trial in trials],
        **{figure: [trial[figure] for trial in trials] for figure in PROBED},
    }


def _audited(row: Row) -> dict[str, list[Any]]:
    return {name: [item["value"] for item in row[name]] for name in ("accuracy", "ece")}


def _noisy(row: Row, cfg: RunConfig, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Draws [D] of what was audited, normal within the intervals."""
    width = 2 * NormalDist().inv_cdf(0.5 + cfg.audit.confidence / 2)

    def drawn(item: Mapping[str, float]) -> NDArray[np.float64]:
        return rng.normal(item["value"], (item["high"] - item["low"]) / width, cfg.rank.draws)

    return {name: [drawn(item) for item in row[name]] for name in ("accuracy", "ece")}


def _factors(
    cfg: RunConfig,
    rows: Mapping[str, Row],
    audited: Mapping[str, Mapping[str, list[Any]]],
    probed: Mapping[str, Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Teacher → factor → number, or draws [D].

    Args:
        cfg: the run's.
        rows: teacher → its measurements.
        audited: teacher → `accuracy` and `ece` of each task.
        probed: `kl_removed` and `gain` → teacher → its mean.
    """
    best_gain = np.max([probed["gain"][n] for n in rows], axis=0)
    found = {}
    for n, row in rows.items():
        seen = audited[n]
        peaks = [core.peak(a, m) for a, m in zip(seen["accuracy"], row["majority"])]
        domains = [core.domain(a, b) for a, b in zip(row["domain_nll"], row["untrained_nll"])]
        honest = [
            core.calibration(e, floor, cfg.rank.worst_ece)
            for e, floor in zip(seen["ece"], row["ece_floor"])
        ]
        found[n] = {
            "ease": core.ease(probed["kl_removed"][n], probed["gain"][n], best_gain),
            "peak": np.mean(peaks, axis=0),
            "domain": np.mean(domains, axis=0) if domains else 0.0,
            "calibration": np.mean(honest, axis=0),
        }
    return found


def _left_out(
    cfg: RunConfig, audited: AuditTable, probes: Trials, ended: Mapping[str, Sequence[Row]]
) -> dict[str, str]:
    """Why a teacher isn't ranked, by the first thing that went wrong."""
    reasons = {}
    for teacher in (t.name for t in cfg.teachers):
        failed = [row for row in probes.failed if row["teacher"] == teacher]
        if teacher in audited.failed:
            reasons[teacher] = f"audit: {audited.failed[teacher]}"
        elif len(ended.get(teacher, [])) < ENOUGH:
            said = "; ".join(f"seed {row['seed']}: {row['reason']}" for row in failed)
            reasons[teacher] = f"probe: {said or 'too few probes ended'}"
    return reasons
