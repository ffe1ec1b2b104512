"""The page of a study of schedules says what its rows say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from schedule_results import CFG, RIGHT, taught

from distill_ray.config.study import ScheduleStudy
from distill_ray.stages.results.trial import TrialSchedule, TrialSwitch
from distill_ray.study.page import plain
from distill_ray.study.schedule.compare import overall_of
from distill_ray.study.schedule.page import write_page
from distill_ray.study.schedule.plots import turns
from distill_ray.study.schedule.run import ScheduleResults


def outcome(folder: Path, **shares: dict[str, Any]) -> ScheduleResults:
    """Domain → changes of what its arms reached; the last one is held out."""
    last = list(shares)[-1]
    cfg = ScheduleStudy(
        name="when", run={}, domains={n: {} for n in shares}, seeds=CFG.seeds,
        held_out_domains=(last,),
        default="scd",
    )  # fmt: skip
    found = {
        name: taught(folder / name, {**RIGHT, **change}, domain=name)
        for name, change in shares.items()
    }
    groups = {"all": list(found.values()), "held out": [found[last]]}
    overall = {group: overall_of(members) for group, members in groups.items()}
    return ScheduleResults(cfg, {name: each.row for name, each in found.items()}, overall)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> ScheduleResults:
    """On one domain the default schedule is far above the best static choice, on one below."""
    above, below = {"scd": (0.98, 0.98)}, {"scd": (0.2, 0.22), "most_accurate": (0.5, 0.5)}
    return outcome(tmp_path_factory.mktemp("runs"), chosen_on=above, seen_last=below)


@pytest.fixture(scope="module")
def folder(study: ScheduleResults, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("results")
    assert write_page(study, made, "distill-ray study schedule x.yaml") == made / "when.md"
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "when.md").read_text()


def paragraph(page: str, start: str) -> str:
    (found,) = [line for line in page.splitlines() if line.startswith(start)]
    return found


def rows_of(page: str, title: str) -> dict[str, list[str]]:
    """First cell of a table's rows → the others."""
    table = page.split(f"### {title}\n")[1].split("\n#")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def test_the_target_is_judged_on_the_held_out_domain_and_on_all(page: str) -> None:
    own = paragraph(page, "On seen_last, held out from every choice: `scd`")
    assert "by more than noise on 1 of 1 task, better on 0" in own
    assert "is lower on average" in own and "better on average, is missed" in own
    assert "served last on 0% of the tasks" in own and "(target 40%: missed)" in own
    both = paragraph(page, "On all domains: `scd`")
    assert "on 1 of 2 tasks, better on 1" in both and "is missed" in both
    assert "served last on 50% of the tasks, beats it on 50%" in both and "40%: met)" in both


def test_the_target_is_met_where_the_default_is_never_worse_and_better_on_average(
    tmp_path: Path,
) -> None:
    found = outcome(tmp_path, one={"scd": (0.98, 0.98)})
    text = write_page(found, tmp_path / "page", "x").read_text()
    said = paragraph(text, "On all domains: `scd`")
    assert "on 0 of 1 task, better on 1" in said and "better on average, is met" in said
    assert "which the interval doesn't show" not in said


def test_a_lead_that_the_interval_does_not_show_is_said_to_be_one(tmp_path: Path) -> None:
    found = outcome(tmp_path, one={"scd": (0.62, 0.62)})
    said = paragraph(write_page(found, tmp_path / "page", "x").read_text(), "On all domains: `scd`")
    assert "which the interval doesn't show" in said and "is met" in said


def test_each_step_of_the_published_order_is_told_as_it_was_found(page: str) -> None:
    own = paragraph(page, "On seen_last, held out from every choice, the published order")
    assert "`most_accurate` over `control`" in own and "no difference shown" in own
    assert "So 0 of 1 step stand as published." in own
    table = rows_of(page, "All")
    assert table["control"][0] == "most_accurate" and table["control"][-1] == "0.655 to 0.727"


@pytest.mark.parametrize(
    ("right", "said", "end"),
    [
        (0.95, "as published", "So 1 of 1 step stand as published."),
        (
            0.1,
            "the opposite of what",
            ", and at `most_accurate` the data disagree with the papers.",
        ),
    ],
)
def test_where_the_data_disagree_with_the_papers_the_page_says_so(
    tmp_path: Path, right: float, said: str, end: str
) -> None:
    found = outcome(tmp_path, one={"most_accurate": (right, right)})
    text = write_page(found, tmp_path / "page", "x").read_text()
    order = paragraph(text, "On all domains, the published order")
    assert said in order and order.endswith(end)


def test_arms_stand_by_what_they_reached_over_the_domains(
    study: ScheduleResults, page: str
) -> None:
    table = rows_of(page, "Accuracy")
    values = [float(row[-1]) for name, row in table.items() if "itself" not in name]
    assert values == sorted(values, reverse=True)
    assert table["scd"] == ["0.983", "0.208", "0.596"]
    assert table["best static"][0] == "0.608" and table["oracle static"][0] == "0.708"
    assert table["the most accurate teacher itself"] == ["0.700", "0.700", "0.700"]
    assert {*table} >= {*RIGHT} - {"big 1", "big 2"}


def test_probes_and_time_stand_beside_what_they_bought(page: str) -> None:
    table = rows_of(page, "All: 2 tasks")
    assert table["ranked"][-2:] == ["34%", "100%"]
    assert table["best static"][1] == "–", "not against itself"


def test_a_domain_names_its_choices_and_its_seeds(page: str) -> None:
    section = page.split("\n## seen_last\n")[1]
    assert "held out from every choice" in section and "the most accurate on validation" in section
    assert "The best static choice there is big 1, on the test split it is big 2." in section
    assert rows_of(section, "What each arm reached")["scd"][1] == "0.200 · 0.217"
    assert "(when-seen_last.svg)" in section


def test_the_numbers_are_beside_the_page(study: ScheduleResults, folder: Path) -> None:
    data = json.loads((folder / "when.json").read_text())
    assert data["overall"] == plain(study.overall)
    assert set(data["domains"]) == {"chosen_on", "seen_last"}
    assert ScheduleStudy.model_validate(data["study"]) == study.cfg


def test_equal_numbers_give_equal_bytes(
    study: ScheduleResults, folder: Path, tmp_path: Path
) -> None:
    write_page(study, tmp_path / "again", "distill-ray study schedule x.yaml")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


def test_who_taught_is_told_in_parts_without_assessments_that_changed_nothing() -> None:
    def entry(step: int, before: tuple[str, int], after: tuple[str, int]) -> TrialSwitch:
        return TrialSwitch(
            step=step,
            from_teacher=before[0],
            from_checkpoint=before[1],
            to_teacher=after[0],
            to_checkpoint=after[1],
            reason="",
            numbers={},
            changes=before != after,
        )

    log = [
        entry(0, ("big", 2), ("big", 0)),
        entry(20, ("big", 0), ("big", 0)),
        entry(40, ("big", 0), ("small", 1)),
    ]
    parts = turns(TrialSchedule(teacher="small", checkpoint_index=1, log=log), 100)
    assert [(p.teacher, p.checkpoint_index, p.first, p.last) for p in parts] == [
        ("big", 0, 1, 40),
        ("small", 1, 41, 100),
    ]
