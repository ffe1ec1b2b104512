"""RankingResults → a page in Markdown with plots, and JSON: what predicted the student."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from distill_ray.stages.reporting.text import Table, interval, number, percent
from distill_ray.study.page import Page, PageSection, plain
from distill_ray.study.ranking.plots import scatter
from distill_ray.study.ranking.predictors import ACCURACY, PREDICTORS, RANKING, RANKING_EARLY
from distill_ray.study.ranking.run import RankingDomain, RankingResults

TARGETS = {"spearman": 0.86, "regret_share": 0.05, "cost": 0.10}
"""RSR's published mean Spearman (arXiv 2601.14249); a twentieth of the spread; a tenth of one full
distillation for each teacher."""
OUTCOMES = {"accuracy": "accuracy", "nll": "negated NLL"}
"""Outcome → its name on the page, where more is better."""


def write_page(results: RankingResults, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = results.cfg
    for name, domain in results.domains.items():
        scatter(domain, OUTCOMES[cfg.outcome], folder / f"{cfg.name}-{name}.svg")
    sections = [_over_domains(results)]
    sections += [_domain(results, name, domain) for name, domain in results.domains.items()]
    page = Page("Does the ranking predict the student?", [*_summary(results)], sections, command)
    return page.write(folder, cfg, {"overall": results.overall, "domains": results.domains})


def _summary(results: RankingResults) -> Iterator[str]:
    cfg = results.cfg
    teachers = max(len(domain.mean_outcomes) for domain in results.domains.values())
    held_out = (
        f", {', '.join(cfg.held_out_domains)} held out from every choice"
        if cfg.held_out_domains
        else ""
    )
    yield (
        f"{teachers} candidate teachers on {_domains(len(results.domains))}{held_out}: each "
        f"distils the same student fully with {len(cfg.seeds)} seeds. The mean "
        f"{OUTCOMES[cfg.outcome]} on the test split is compared with what was known of the teacher "
        "before. A good predictor orders the teachers as their students end "
        "(Spearman), and the teacher that it puts first loses little against the best one "
        "(regret, as a share of the spread between the best and the worst student)."
    )
    for group in ("held out", "all"):
        if group not in results.overall:
            continue
        ranking, accuracy = (results.overall[group][name] for name in (RANKING, ACCURACY))
        names = results.domains if group == "all" else cfg.held_out_domains
        cost = fmean(results.domains[name].cost.tokens_share for name in names)
        title = "On the held-out domain" if group == "held out" else "On all domains"
        yield (
            f"{title}: the ranking's mean Spearman is {interval(ranking.spearman)} (target "
            f"{TARGETS['spearman']}), its regret {percent(ranking.regret_share)} of the spread "
            f"(target {percent(TARGETS['regret_share'], 0)}), for {percent(cost)} of the tokens of "
            f"one full distillation for each teacher (target {percent(TARGETS['cost'], 0)}). The "
            f"most accurate teacher: Spearman {interval(accuracy.spearman)}, regret "
            f"{percent(accuracy.regret_share)}."
        )


def _domains(count: int) -> str:
    return f"{count} domain" if count == 1 else f"{count} domains"


def _p_value(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else number(value, 4)


def _over_domains(results: RankingResults) -> PageSection:
    columns = ["Domain", "Ranking: Spearman", "p", "Regret", "Early, with the first checkpoint"]
    columns += ["Most accurate: Spearman", "Regret", "Ceiling", "Cost for each teacher"]
    rows = []
    for name, domain in results.domains.items():
        ranking, accuracy = (domain.agreement[predictor] for predictor in (RANKING, ACCURACY))
        rows.append(
            [
                f"{name} (held out)" if name in results.cfg.held_out_domains else name,
                number(ranking.spearman),
                _p_value(ranking.p_value),
                percent(ranking.regret_share),
                number(domain.agreement_early[RANKING_EARLY].spearman),
                number(accuracy.spearman),
                percent(accuracy.regret_share),
                number(domain.ceiling),
                percent(domain.cost.tokens_share),
            ]
        )
    note = (
        "Early: the ranking for untrained students, with the student at its first point. Ceiling: "
        "how one seed's finished runs order the mean of the others'. Cost: share of the tokens of "
        "one full distillation."
    )
    tables = [Table("Domain by domain", columns, rows, note)]
    columns = ["Predictor", "Mean Spearman", "Kendall", "Regret", "Worst regret"]
    columns += ["Spearman with the first checkpoint", "Needs"]
    level = percent(results.cfg.confidence, 0)
    note = (
        f"Intervals resample teachers within each domain ({level}); regret is a share of the "
        f"spread. The first point is the student after 1 / {results.cfg.num_curve_points} of its "
        "training."
    )
    for group, summaries in results.overall.items():
        count = next(iter(summaries.values())).domains
        rows = [
            [
                name,
                interval(summary.spearman),
                number(summary.kendall),
                percent(summary.regret_share),
                percent(summary.worst_regret_share),
                number(summary.spearman_early),
                PREDICTORS[name].needs,
            ]
            for name, summary in sorted(summaries.items(), key=lambda item: -item[1].spearman.value)
        ]
        title = f"{group[:1].upper()}{group[1:]}: {_domains(count)}"
        tables.append(Table(title, columns, rows, note))
    return PageSection("Over the domains", tables=tables)


def _domain(results: RankingResults, name: str, domain: RankingDomain) -> PageSection:
    cfg, cost = results.cfg, domain.cost
    kind = (
        "held out from every choice" if name in cfg.held_out_domains else "choices were made on it"
    )
    text = [
        f"{name} ({kind}). The initial student: {number(domain.initial_outcome)}. One seed's "
        f"finished runs order the mean of the others' with a Spearman of {number(domain.ceiling)}: "
        f"more is luck. "
        f"One teacher's part in the probes takes {percent(cost.tokens_share)} of the tokens of "
        f"one full distillation, {percent(cost.training_share)} of its training time and "
        f"{percent(cost.wall_share)} of its whole time, measuring included."
    ]
    text += [
        f"{stage} failed: {json.dumps(plain(failures))}."
        for stage, failures in vars(domain.failed).items()
        if failures
    ]
    columns = ["Predictor", "Spearman", "p", "Kendall", "Chooses", "Regret", "What it is"]
    rows = [
        [
            predictor,
            number(agreement.spearman),
            _p_value(agreement.p_value),
            number(agreement.kendall),
            agreement.top_predicted,
            percent(agreement.regret_share),
            PREDICTORS[predictor].what,
        ]
        for predictor, agreement in sorted(domain.agreement.items(), key=lambda i: -i[1].spearman)
    ]
    predictors = Table("Predictors", columns, rows, "p: two-sided, by permutation.")
    columns = ["Teacher", f"Student's {OUTCOMES[cfg.outcome]}", "by seed", "Ranking", ACCURACY]
    rows = [
        [
            teacher,
            number(mean, 4),
            " · ".join(number(value) for value in domain.outcomes[teacher]),
            number(domain.predictions[RANKING][teacher]),
            number(domain.predictions[ACCURACY][teacher]),
        ]
        for teacher, mean in sorted(domain.mean_outcomes.items(), key=lambda item: -item[1])
    ]
    teachers = Table("Teachers, by their students", columns, rows)
    figure, caption = f"{cfg.name}-{name}.svg", f"{name}: predictors against the final student"
    return PageSection(name, text, [predictors, teachers], figure, caption)
