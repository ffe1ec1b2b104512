"""The kinds of study: how each runs, writes its page and shows its results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from distill_ray.study import tables
from distill_ray.study.domain_data.page import write_page as write_domain_data_page
from distill_ray.study.domain_data.run import study as study_domain_data
from distill_ray.study.ranking.page import write_page as write_ranking_page
from distill_ray.study.ranking.run import study as study_ranking
from distill_ray.study.schedule.page import write_page as write_schedule_page
from distill_ray.study.schedule.run import study as study_schedule


@dataclass(frozen=True)
class StudyKind:
    """The functions of one kind of study, which agree on its config and its results."""

    run: Callable[..., Any]
    """Config, domain → its run → results; they have `overall`, group of domains → summary."""
    write_page: Callable[..., Any]
    """Results, folder, command → the page's path."""
    table: Callable[..., Table]
    """Group of domains, summary → a table for the terminal."""


KINDS: Mapping[str, StudyKind] = {
    "ranking": StudyKind(study_ranking, write_ranking_page, tables.predictors),
    "schedule": StudyKind(study_schedule, write_schedule_page, tables.arms),
    "domain-data": StudyKind(study_domain_data, write_domain_data_page, tables.contrasts),
}
"""`distill-ray study <name>` → its functions; `STUDIES` has its config."""
