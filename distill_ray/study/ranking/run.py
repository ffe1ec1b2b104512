"""RankingStudy → RankingResults: every teacher teaches to the end; what predicted its student?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import RankingStudy
from distill_ray.core.agreement import Agreement, agreement, ceiling, mean_interval
from distill_ray.core.intervals import Interval
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import select_teachers
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import ProbeTable
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.trial import Trials
from distill_ray.study.ranking.full import distil_fully
from distill_ray.study.ranking.predictors import TeacherEvidence, predictions


@dataclass(frozen=True)
class CurvePoint:
    """A point of a student's curve, the mean over seeds."""

    tokens: int
    outcome: float
    """The study's outcome, as it is: of the NLL, less is better."""


@dataclass(frozen=True)
class ProbeCost:
    """One teacher's part in the probes, and its shares of one full distillation."""

    probe_tokens: float
    full_tokens: float
    tokens_share: float
    training_share: float
    wall_share: float


@dataclass(frozen=True)
class Failures:
    """What failed in each stage, with the reasons."""

    audit: Mapping[str, str]
    """Teacher → reason."""
    probe: Sequence[object]
    """`teacher`, `seed` and `reason` of each trial."""
    full: Sequence[object]


@dataclass(frozen=True)
class RankingDomain:
    """A domain's teachers, by their students. More of an outcome is better."""

    outcomes: Mapping[str, list[float]]
    """Teacher → its students' outcome with each seed."""
    mean_outcomes: Mapping[str, float]
    initial_outcome: float
    """The outcome of the student before its distillation."""
    curves: Mapping[str, list[CurvePoint]]
    predictions: Mapping[str, Mapping[str, float]]
    """Predictor → teacher → prediction."""
    agreement: Mapping[str, Agreement]
    """Predictor → agreement with the mean outcomes."""
    agreement_early: Mapping[str, Agreement]
    """Predictor → agreement with the outcomes at the first checkpoint."""
    ceiling: float
    """Spearman of one seed's outcomes with the mean of the other seeds'."""
    cost: ProbeCost
    failed: Failures


@dataclass(frozen=True)
class PredictorSummary:
    """A predictor over some domains."""

    spearman: Interval
    kendall: float
    regret: float
    regret_share: float
    """Regret as a share of the spread between the best and the worst student."""
    worst_regret_share: float
    spearman_early: float
    domains: int


@dataclass(frozen=True)
class RankingResults:
    """The outcome of a study."""

    cfg: RankingStudy
    domains: Mapping[str, RankingDomain]
    overall: Mapping[str, Mapping[str, PredictorSummary]]
    """Group of domains, see `StudyConfig.groups` → predictor → summary."""


def study(cfg: RankingStudy, runs: Mapping[str, Run]) -> RankingResults:
    """Run or reuse every domain to the end, and compare.

    Args:
        cfg: the study.
        runs: domain → its run.
    """
    domains = {}
    for name, run in runs.items():
        selection = select_teachers(run)
        full = distil_fully(
            run, selection.shards, selection.teachers, cfg.seeds, cfg.num_curve_points
        )
        domains[name] = compare(cfg, selection.audited, selection.probed, selection.ranking, full)
    overall = {
        group: summarise(cfg, [domains[name] for name in names])
        for group, names in cfg.groups(domains).items()
    }
    return RankingResults(cfg, domains, overall)


def compare(
    cfg: RankingStudy, audited: AuditTable, probed: ProbeTable, ranking: Ranking, full: Trials
) -> RankingDomain:
    """Compare the predictors, over teachers that were ranked and whose distillations all ended.

    Raises:
        InputError: fewer than two teachers did.
    """
    trials = {(result.teacher, result.seed): result for result in full.results()}
    teachers = list(dict.fromkeys(teacher for teacher, _ in trials))
    complete = [
        name
        for name in teachers
        if all((name, seed) in trials for seed in cfg.seeds) and name in ranking.factors
    ]
    if len(complete) < 2:
        what = f"{len(complete)} of {len(teachers)} teachers were ranked and taught to the end."
        fix = "At least two are needed: see what failed, and retry with --retry-failed."
        raise InputError("too few teachers to compare:", [Problem("teachers", what, fix)])
    sign = 1.0 if cfg.outcome == "accuracy" else -1.0
    outcomes = {n: [sign * getattr(trials[n, s], cfg.outcome) for s in cfg.seeds] for n in complete}
    mean_outcomes = {n: fmean(values) for n, values in outcomes.items()}
    curves = {
        name: [
            CurvePoint(points[0].tokens, fmean(getattr(point, cfg.outcome) for point in points))
            for points in zip(*(trials[name, seed].curve for seed in cfg.seeds))
        ]
        for name in complete
    }
    early_outcomes = {name: sign * curve[0].outcome for name, curve in curves.items()}
    predicted = predictions(_evidence(complete, audited, probed, ranking))
    return RankingDomain(
        outcomes=outcomes,
        mean_outcomes=mean_outcomes,
        initial_outcome=sign * getattr(trials[complete[0], cfg.seeds[0]].before, cfg.outcome),
        curves=curves,
        predictions=predicted,
        agreement={p: agreement(values, mean_outcomes) for p, values in predicted.items()},
        agreement_early={p: agreement(values, early_outcomes) for p, values in predicted.items()},
        ceiling=ceiling(np.array(list(outcomes.values()))),
        cost=probe_cost(probed, full),
        failed=Failures(audited.failed, probed.failed, full.failed),
    )


def _evidence(
    teachers: Sequence[str], audited: AuditTable, probed: ProbeTable, ranking: Ranking
) -> dict[str, TeacherEvidence]:
    probes = probed.results()
    scores = {
        phase: {entry.teacher: entry.score for entry in entries}
        for phase, entries in ranking.leaderboard.items()
    }
    evidence = {}
    for name in teachers:
        audit, estimates = audited.rows[name], probed.estimates[name]
        evidence[name] = TeacherEvidence(
            parameters=audit.parameters,
            tasks={
                task: {
                    "accuracy": row.accuracy.value,
                    "nll": row.nll.value,
                    "ece": row.ece.value,
                }
                for task, row in audit.tasks.items()
            },
            probes=[
                {f: getattr(probe, f) for f in ("gain", "accuracy", "kl_moved", "kl_removed")}
                for probe in probes
                if probe.teacher == name
            ],
            estimates={} if estimates is None else estimates.model_dump(),
            scores={phase: by_teacher[name] for phase, by_teacher in scores.items()},
            taught=[task.model_dump() for task in ranking.evidence[name].taught],
        )
    return evidence


def probe_cost(probed: ProbeTable, full: Trials) -> ProbeCost:
    """The cost of one teacher in the probes, compared with one full distillation.

    It covers the teacher's own probes with all seeds, and its share of the control probe, which
    serves all teachers.
    """
    num_teachers = len({trial.teacher for trial in probed.ended})
    probe = {key: value / num_teachers for key, value in asdict(probed.cost()).items()}
    distillation = {key: value / len(full.ended) for key, value in asdict(full.cost()).items()}
    return ProbeCost(
        probe_tokens=probe["tokens"],
        full_tokens=distillation["tokens"],
        tokens_share=probe["tokens"] / distillation["tokens"],
        training_share=probe["training_s"] / distillation["training_s"],
        wall_share=probe["wall_s"] / distillation["wall_s"],
    )


def summarise(cfg: RankingStudy, domains: Sequence[RankingDomain]) -> dict[str, PredictorSummary]:
    """Predictor → its summary over some domains."""
    summaries = {}
    for name in domains[0].agreement:
        pairs = [(domain.predictions[name], domain.mean_outcomes) for domain in domains]
        agreements = [domain.agreement[name] for domain in domains]
        summaries[name] = PredictorSummary(
            spearman=mean_interval(pairs, resamples=cfg.num_bootstrap, confidence=cfg.confidence),
            kendall=fmean(a.kendall for a in agreements),
            regret=fmean(a.regret for a in agreements),
            regret_share=fmean(a.regret_share for a in agreements),
            worst_regret_share=max(a.regret_share for a in agreements),
            spearman_early=fmean(domain.agreement_early[name].spearman for domain in domains),
            domains=len(domains),
        )
    return summaries
