"""Tables of a study's results on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from distill_ray.study.domain_data.compare import OverallContrast
from distill_ray.study.ranking.run import PredictorSummary
from distill_ray.study.schedule.compare import ScheduleSummary


def predictors(group: str, summaries: Mapping[str, PredictorSummary]) -> Table:
    """What predicted the students of a ranking study, best first."""
    numbers = ("mean Spearman", "interval", "Kendall", "regret", "worst regret")
    table = _table(group, "predictor", numbers)
    for name, row in sorted(summaries.items(), key=lambda item: -item[1].spearman.value):
        table.add_row(
            name,
            f"{row.spearman.value:.3f}",
            f"{row.spearman.low:.3f} to {row.spearman.high:.3f}",
            f"{row.kendall:.3f}",
            f"{row.regret_share:.1%}",
            f"{row.worst_regret_share:.1%}",
        )
    return table


def arms(group: str, summary: ScheduleSummary) -> Table:
    """A schedule study's arms against the best static choice, best first."""
    numbers = ("accuracy", "NLL", "minus best static", "interval", "worse on", "better on")
    table = _table(group, "arm", numbers)
    for name, row in sorted(summary.arms.items(), key=lambda item: -item[1].accuracy):
        lead = row.against.best_static
        table.add_row(
            name,
            f"{row.accuracy:.3f}",
            f"{row.nll:.3f}",
            f"{lead.accuracy.value:+.3f}",
            f"{lead.accuracy.low:+.3f} to {lead.accuracy.high:+.3f}",
            str(lead.worse),
            str(lead.better),
        )
    return table


def contrasts(group: str, rows: Sequence[OverallContrast]) -> Table:
    """Differences between a domain-data study's students, in points of accuracy."""
    table = _table(group, "difference", ("points", "interval", "above 0 on", "papers"))
    for row in rows:
        value, low, high = (
            100 * end for end in (row.accuracy.value, row.accuracy.low, row.accuracy.high)
        )
        table.add_row(
            row.name,
            f"{value:+.1f}",
            f"{low:+.1f} to {high:+.1f}",
            f"{row.means} of {row.tasks}",
            row.finding or "",
        )
    return table


def _table(group: str, first: str, numbers: Sequence[str]) -> Table:
    table = Table(title=f"{group[:1].upper()}{group[1:]}", title_justify="left")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
