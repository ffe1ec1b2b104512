"""Study → a page in Markdown with its plots, and JSON: what predicted the student, and what not."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from distill_ray.stages.reporting.text import Table, interval, number, percent
from distill_ray.study.page import Page, Part
from distill_ray.study.ranking.plots import scatter
from distill_ray.study.ranking.predictors import ACCURACY, PREDICTORS, RANKING, RANKING_EARLY
from distill_ray.study.ranking.run import Study

TARGETS = {"spearman": 0.86, "regret_share": 0.05, "cost": 0.10}
"""RSR's published mean Spearman (arXiv 2601.14249); a twentieth of the spread; a tenth of one full
distillation for each teacher."""
OUTCOMES = {"accuracy": "accuracy", "nll": "negated NLL"}
"""Outcome → what is shown of it: more is better."""
Row = Mapping[str, Any]


def write_page(study: Study, folder: Path, command: str) -> Path:
    """Write `<study>.md`, `<study>.json` and a plot for each domain; returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    for domain, row in study.domains.items():
        scatter(row, OUTCOMES[study.cfg.outcome], folder / f"{study.cfg.name}-{domain}.svg")
    page = Page(
        "Does the ranking predict the student?", [*_summary(study)], [*_parts(study)], command
    )
    data = {"overall": study.overall, "domains": study.domains}
    return page.write(folder, study.cfg, data)


def _summary(study: Study) -> Iterator[str]:
    cfg = study.cfg
    teachers = max(len(row["reached"]) for row in study.domains.values())
    unseen = (
        f", {', '.join(cfg.held_out_domains)} untouched by any choice"
        if cfg.held_out_domains
        else ""
    )
    yield (
        f"{teachers} candidate teachers on {_domains(len(study.domains))}{unseen}: each distils "
        f"the same student fully with {len(cfg.seeds)} seeds, and the mean "
        f"{OUTCOMES[cfg.outcome]} on the test split is compared with what was known of the teacher "
        "before. A predictor is good when it orders the teachers as their students ended "
        "(Spearman), and when the teacher that it puts first loses little against the best one "
        "(regret, as a share of the spread between the best and the worst student)."
    )
    for group in ("held out", "all"):
        if group in study.overall:
            yield _against_targets(study, group)


def _against_targets(study: Study, group: str) -> str:
    ours, plain = (study.overall[group][name] for name in (RANKING, ACCURACY))
    names = [n for n in study.domains if group == "all" or n in study.cfg.held_out_domains]
    cost = fmean(study.domains[n]["cost"]["tokens_share"] for n in names)
    title = "On the untouched domain" if group == "held out" else "On all domains"
    return (
        f"{title}: the ranking's mean Spearman is {interval(ours['spearman'])} (target "
        f"{TARGETS['spearman']}), its regret {percent(ours['regret_share'])} of the spread (target "
        f"{percent(TARGETS['regret_share'], 0)}), for {percent(cost)} of the tokens of one full "
        f"distillation for each teacher (target {percent(TARGETS['cost'], 0)}). The most accurate "
        f"teacher: Spearman {interval(plain['spearman'])}, regret "
        f"{percent(plain['regret_share'])}."
    )


def _parts(study: Study) -> Iterator[Part]:
    tables = [_by_domain(study), *(_overall(study, group) for group in study.overall)]
    yield Part("Over the domains", tables=tables)
    for name, row in study.domains.items():
        yield _domain(study, name, row)


def _domains(count: int) -> str:
    return f"{count} domain" if count == 1 else f"{count} domains"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else number(value, 4)


def _by_domain(study: Study) -> Table:
    columns = ["Domain", "Ranking: Spearman", "p", "Regret", "Early, with the first checkpoint"]
    columns += ["Most accurate: Spearman", "Regret", "Ceiling", "Cost for each teacher"]
    rows = []
    for name, row in study.domains.items():
        ours, plain = (row["agreement"][predictor] for predictor in (RANKING, ACCURACY))
        rows.append(
            [
                f"{name} (untouched)" if name in study.cfg.held_out_domains else name,
                number(ours["spearman"]),
                _p(ours["p_value"]),
                percent(ours["regret_share"]),
                number(row["agreement_early"][RANKING_EARLY]["spearman"]),
                number(plain["spearman"]),
                percent(plain["regret_share"]),
                number(row["ceiling"]),
                percent(row["cost"]["tokens_share"]),
            ]
        )
    note = (
        "Early: the ranking for untrained students, with the student at its first point. Ceiling: "
        "how one seed's finished runs order the mean of the others'. Cost: share of the tokens of "
        "one full distillation."
    )
    return Table("Domain by domain", columns, rows, note)


def _overall(study: Study, group: str) -> Table:
    columns = ["Predictor", "Mean Spearman", "Kendall", "Regret", "Worst regret"]
    columns += ["Spearman with the first checkpoint", "Needs"]
    found = study.overall[group]
    count = next(iter(found.values()))["domains"]
    rows = [
        [
            name,
            interval(row["spearman"]),
            number(row["kendall"]),
            percent(row["regret_share"]),
            percent(row["worst_regret_share"]),
            number(row["spearman_early"]),
            PREDICTORS[name].needs,
        ]
        for name, row in sorted(found.items(), key=lambda item: -item[1]["spearman"]["value"])
    ]
    level = percent(study.cfg.confidence, 0)
    note = (
        f"Intervals resample teachers within each domain ({level}); regret is a share of the "
        f"spread. The first point is the student after 1 / {study.cfg.num_curve_points} of its "
        "training."
    )
    return Table(f"{group[:1].upper()}{group[1:]}: {_domains(count)}", columns, rows, note)


def _domain(study: Study, name: str, row: Row) -> Part:
    kind = (
        "untouched by any choice"
        if name in study.cfg.held_out_domains
        else "choices were made on it"
    )
    cost = row["cost"]
    text = [
        f"{name} ({kind}). The initial student: {number(row['before'])}. One seed's finished runs "
        f"order the mean of the others' with a Spearman of {number(row['ceiling'])}: more is luck. "
        f"One teacher's part in the probes takes {percent(cost['tokens_share'])} of the tokens of "
        f"one full distillation, {percent(cost['training_share'])} of its training time and "
        f"{percent(cost['wall_share'])} of its whole time, measuring included."
    ]
    text += [
        f"{stage} failed: {json.dumps(found)}." for stage, found in row["failed"].items() if found
    ]
    figure = f"{study.cfg.name}-{name}.svg"
    caption = f"{name}: predictors against the final student"
    return Part(name, text, [_predictors(row), _teachers(study, row)], figure, caption)


def _predictors(row: Row) -> Table:
    columns = ["Predictor", "Spearman", "p", "Kendall", "Chooses", "Regret", "What it is"]
    rows = [
        [
            name,
            number(found["spearman"]),
            _p(found["p_value"]),
            number(found["kendall"]),
            found["top_predicted"],
            percent(found["regret_share"]),
            PREDICTORS[name].what,
        ]
        for name, found in sorted(row["agreement"].items(), key=lambda i: -i[1]["spearman"])
    ]
    return Table("Predictors", columns, rows, "p: two-sided, by permutation.")


def _teachers(study: Study, row: Row) -> Table:
    columns = [
        "Teacher",
        f"Student's {OUTCOMES[study.cfg.outcome]}",
        "by seed",
        "Ranking",
        ACCURACY,
    ]
    predicted = row["predictions"]
    rows = [
        [
            name,
            number(reached, 4),
            " · ".join(number(value) for value in row["outcomes"][name]),
            number(predicted[RANKING][name]),
            number(predicted[ACCURACY][name]),
        ]
        for name, reached in sorted(row["reached"].items(), key=lambda item: -item[1])
    ]
    return Table("Teachers, by their students", columns, rows)
