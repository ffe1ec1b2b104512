"""RankingStudy → Study: every teacher teaches to the end on every domain; what predicted it?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import RankingStudy
from distill_ray.core.agreement import agreement, ceiling, mean_interval
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import select_teachers
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.trial import Trials
from distill_ray.study.ranking.full import distil_fully
from distill_ray.study.ranking.predictors import Seen, predictions

Row = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """The outcome of a study."""

    cfg: RankingStudy
    domains: dict[str, Row]
    """Domain → `outcomes`, `predictions`, `agreement`, `ceiling`, `cost`, `failed` and more."""
    overall: dict[str, dict[str, Row]]
    """`all`, and if some are held out `chosen on` and `held out` → predictor → mean Spearman with
    its interval, mean Kendall, regret and regret as a share of the spread, number of domains."""


def study(cfg: RankingStudy, runs: Mapping[str, Run]) -> Study:
    """Run every domain to the end, or find it run, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.
    """
    domains = {name: _domain(cfg, run) for name, run in runs.items()}
    overall = {
        group: _overall(cfg, [domains[name] for name in names])
        for group, names in cfg.groups(domains).items()
    }
    return Study(cfg, domains, overall)


def _domain(cfg: RankingStudy, run: Run) -> Row:
    selection = select_teachers(run)
    full = distil_fully(run, selection.shards, selection.teachers, cfg.seeds, cfg.num_curve_points)
    return _compared(cfg, selection.audited, selection.probed, selection.ranking, full)


def _compared(
    cfg: RankingStudy, audited: AuditTable, probed: ProbeTable, ranking: Ranking, full: Trials
) -> Row:
    """Teachers of which every full distillation ended and which were ranked."""
    finals: dict[str, dict[int, Row]] = {}
    for row in full.rows():
        finals.setdefault(row["teacher"], {})[row["seed"]] = row
    whole = [
        n for n, rows in finals.items() if len(rows) == len(cfg.seeds) and n in ranking.factors
    ]
    if len(whole) < 2:
        what = f"{len(whole)} of {len(finals)} teachers were ranked and taught to the end."
        fix = "Two at least are needed: look at who failed, and try again with --retry-failed."
        raise InputError("the study can't compare:", [Problem("teachers", what, fix)])
    sign = 1.0 if cfg.outcome == "accuracy" else -1.0
    outcomes = {n: [sign * finals[n][seed][cfg.outcome] for seed in cfg.seeds] for n in whole}
    reached = {n: fmean(values) for n, values in outcomes.items()}
    curves = {n: _curve(cfg, finals[n]) for n in whole}
    soon = {n: sign * curve[0][cfg.outcome] for n, curve in curves.items()}
    probes = probed.rows()
    predicted = predictions({n: _seen(n, audited, probed, probes, ranking) for n in whole})
    return {
        "outcomes": outcomes,
        "reached": reached,
        "before": sign * finals[whole[0]][cfg.seeds[0]]["before"][cfg.outcome],
        "curves": curves,
        "predictions": predicted,
        "agreement": {p: asdict(agreement(values, reached)) for p, values in predicted.items()},
        "agreement_early": {p: asdict(agreement(values, soon)) for p, values in predicted.items()},
        "ceiling": ceiling(np.array(list(outcomes.values()))),
        "cost": _cost(probed, full),
        "failed": {"audit": audited.failed, "probe": probed.failed, "full": full.failed},
    }


def _seen(
    name: str, audited: AuditTable, probed: ProbeTable, probes: list[Row], ranking: Ranking
) -> Seen:
    standings = ranking.standings
    return Seen(
        audit=audited.rows[name],
        probes=[row for row in probes if row["teacher"] == name],
        estimates=probed.estimates[name] or {},
        scores={
            stage: next(row["score"] for row in rows if row["teacher"] == name)
            for stage, rows in standings.items()
        },
        taught=ranking.evidence[name]["taught"],
    )


def _curve(cfg: RankingStudy, rows: Mapping[int, Row]) -> list[Row]:
    """The outcome at each checkpoint, the mean over seeds."""
    curves = [row["curve"] for row in rows.values()]
    return [
        {"tokens": points[0]["tokens"], cfg.outcome: fmean(p[cfg.outcome] for p in points)}
        for points in zip(*curves)
    ]


def _cost(probed: ProbeTable, full: Trials) -> Row:
    """What one teacher's part in the probes takes, as shares of one full distillation.

    Its own probes with all their seeds, and its share of the control that serves all teachers.
    """
    teachers = len({trial.teacher for trial in probed.ended})
    each = {key: value / teachers for key, value in probed.cost().items()}
    one = {key: value / len(full.ended) for key, value in full.cost().items()}
    return {
        "probe_tokens": each["tokens"],
        "full_tokens": one["tokens"],
        "tokens_share": each["tokens"] / one["tokens"],
        "training_share": each["training_s"] / one["training_s"],
        "wall_share": each["wall_s"] / one["wall_s"],
    }


def _overall(cfg: RankingStudy, domains: list[Row]) -> dict[str, Row]:
    """Predictor → its figures over some domains."""
    result = {}
    for name in domains[0]["agreement"]:
        pairs = [(row["predictions"][name], row["reached"]) for row in domains]
        found = [row["agreement"][name] for row in domains]
        mean = mean_interval(pairs, resamples=cfg.num_bootstrap, confidence=cfg.confidence)
        result[name] = {
            "spearman": asdict(mean),
            **{key: fmean(a[key] for a in found) for key in ("kendall", "regret", "regret_share")},
            "worst_regret_share": max(a["regret_share"] for a in found),
            "spearman_early": fmean(row["agreement_early"][name]["spearman"] for row in domains),
            "domains": len(domains),
        }
    return result
