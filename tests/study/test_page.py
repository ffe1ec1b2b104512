"""A study's page, plots and numbers say what its rows say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

from distill_ray.config.study import RankingStudy
from distill_ray.core.agreement import agreement
from distill_ray.study.page import plain
from distill_ray.study.ranking.page import write_page
from distill_ray.study.ranking.predictors import ACCURACY, PREDICTORS, RANKING
from distill_ray.study.ranking.run import (
    Failures,
    ProbeCost,
    RankingDomain,
    RankingResults,
    summarise,
)

TEACHERS = ("small", "middle|wide", "large")
REACHED = dict(zip(TEACHERS, (0.5, 0.6, 0.9)))


def domain(*order: float, cost: float = 0.08, full: Sequence[object] = ()) -> RankingDomain:
    """A domain whose teachers the ranking puts in this order, and their accuracy as they ended."""
    predicted = {name: dict(REACHED) for name in PREDICTORS}
    predicted[RANKING] = dict(zip(TEACHERS, order))
    agreed = {p: agreement(values, REACHED) for p, values in predicted.items()}
    return RankingDomain(
        outcomes={name: [value - 0.01, value + 0.01] for name, value in REACHED.items()},
        mean_outcomes=dict(REACHED),
        initial_outcome=0.125,
        curves={},
        predictions=predicted,
        agreement=agreed,
        agreement_early=agreed,
        ceiling=0.875,
        cost=ProbeCost(1.0, 1.0, cost, 0.11, 0.23),
        failed=Failures(audit={}, probe=[], full=full),
    )


def study_of(
    *, held_out_domains: tuple[str, ...] = ("seen_last",), **rows: RankingDomain
) -> RankingResults:
    cfg = RankingStudy(
        name="which",
        run={},
        domains={n: {} for n in rows},
        held_out_domains=held_out_domains,
        num_bootstrap=100,
    )
    groups = {"all": [*rows], "held out": [*held_out_domains]}
    overall = {g: summarise(cfg, [rows[n] for n in names]) for g, names in groups.items() if names}
    return RankingResults(cfg, dict(rows), overall)


@pytest.fixture(scope="module")
def study() -> RankingResults:
    failed = [{"teacher": "huge", "seed": 1, "reason": "diverged"}]
    return study_of(
        chosen_on=domain(1, 2, 3, cost=0.06),
        seen_last=domain(1, 3, 2, cost=0.1, full=failed),
    )


@pytest.fixture(scope="module")
def folder(study: RankingResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    assert write_page(study, made, "distill-ray study x.yaml") == made / "which.md"
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "which.md").read_text()


def not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def test_the_page_is_written_with_a_plot_a_domain_and_the_numbers(folder: Path, page: str) -> None:
    names = ["which-chosen_on.svg", "which-seen_last.svg", "which.json", "which.md"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all(f"]({name})" in page for name in names if name.endswith(".svg"))
    assert "Made by `distill-ray study x.yaml`. The numbers as data: `which.json`." in page


def test_the_numbers_are_valid_json_and_those_of_the_study(
    study: RankingResults, folder: Path
) -> None:
    data = json.loads((folder / "which.json").read_text(), parse_constant=not_json)
    assert data["domains"] == plain(study.domains) and data["overall"] == plain(study.overall)
    assert RankingStudy.model_validate(data["study"]) == study.cfg
    assert data["versions"]["distill_ray"]


def test_the_summary_holds_the_figures_against_the_targets(page: str) -> None:
    assert "3 candidate teachers on 2 domains, seen_last held out from every choice" in page
    (own,) = [line for line in page.splitlines() if line.startswith("On the held-out domain")]
    # small, large, middle instead of small, middle, large: one exchange of three, .3 of .4 lost.
    assert "the ranking's mean Spearman is 0.500 (" in own and "(target 0.86)" in own
    assert "its regret 75.0% of the spread (target 5%)" in own
    assert "for 10.0% of the tokens of one full distillation for each teacher (target 10%)" in own
    assert "The most accurate teacher: Spearman 1.000 (1.000 to 1.000), regret 0.0%." in own
    (both,) = [line for line in page.splitlines() if line.startswith("On all domains")]
    assert "Spearman is 0.750 (" in both and "regret 37.5% of" in both and "for 8.0% of" in both


def test_where_every_domain_was_chosen_on_nothing_is_said_of_others(tmp_path: Path) -> None:
    made = study_of(held_out_domains=(), chosen_on=domain(1, 2, 3))
    text = write_page(made, tmp_path, "x").read_text()
    assert "held-out domain" not in text and "held out from" not in text
    assert "3 candidate teachers on 1 domain:" in text and "### All: 1 domain\n" in text
    assert "On all domains: the ranking's mean Spearman is 1.000" in text


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_a_domain_tells_its_ceiling_its_cost_and_who_failed(page: str) -> None:
    first, last = section(page, "chosen_on"), section(page, "seen_last")
    assert "chosen_on (choices were made on it). The initial student: 0.125." in first
    assert "seen_last (held out from every choice)." in last
    assert "with a Spearman of 0.875: more is luck" in first
    assert "takes 6.0% of the tokens of one full distillation, 11.0% of its training" in first
    assert "23.0% of its whole time" in first
    assert 'full failed: [{"teacher": "huge", "seed": 1, "reason": "diverged"}].' in last
    assert "failed" not in first


def rows_of(text: str, title: str) -> list[list[str]]:
    """Cells of a table's rows."""
    lines = text.split(f"### {title}\n")[1].split("\n### ")[0].splitlines()
    cells = [line.replace("\\|", "/") for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in cells[2:]]


def test_every_predictor_has_its_row_the_best_first(page: str) -> None:
    rows = rows_of(section(page, "seen_last"), "Predictors")
    assert {row[0] for row in rows} == set(PREDICTORS)
    assert rows[-1][:2] == [RANKING, "0.500"] and rows[-1][4:6] == ["middle/wide", "75.0%"]
    overall = {row[0]: row for row in rows_of(section(page, "Over the domains"), "All: 2 domains")}
    assert set(overall) == set(PREDICTORS)
    assert overall[ACCURACY][1:5] == ["1.000 (1.000 to 1.000)", "1.000", "0.0%", "0.0%"]
    assert overall[RANKING][3:5] == ["37.5%", "75.0%"], "mean and worst"
    assert {row[-1] for row in overall.values()} == {p.needs for p in PREDICTORS.values()}


def test_each_domain_has_its_row_with_the_ranking_beside_the_most_accurate(page: str) -> None:
    first, last = rows_of(section(page, "Over the domains"), "Domain by domain")
    assert first[:2] == ["chosen_on", "1.000"] and first[3] == "0.0%" and first[-1] == "6.0%"
    assert last[:2] == ["seen_last (held out)", "0.500"] and last[3] == "75.0%"
    assert last[4:8] == ["1.000", "1.000", "0.0%", "0.875"] and last[-1] == "10.0%"


def test_teachers_are_listed_by_what_their_students_reached(page: str) -> None:
    rows = rows_of(section(page, "chosen_on"), "Teachers, by their students")
    assert [row[0] for row in rows] == ["large", "middle/wide", "small"]
    assert rows[0] == ["large", "0.9000", "0.890 · 0.910", "3.000", "0.900"]


def test_a_plot_has_a_point_for_every_teacher_and_says_how_well_it_predicts(folder: Path) -> None:
    plot = (folder / "which-seen_last.svg").read_text()
    for teacher in TEACHERS:
        assert plot.count(f">{teacher}<") == 4, "in each of the four panels"
    assert ">ranking: Spearman 0.50<" in plot and f">{ACCURACY}: Spearman 1.00<" in plot
    assert "student's accuracy on test" in plot.replace("&#x27;", "'").replace("&#39;", "'")


def test_equal_numbers_give_equal_bytes(
    study: RankingResults, folder: Path, tmp_path: Path
) -> None:
    write_page(study, tmp_path / "again", "distill-ray study x.yaml")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name
