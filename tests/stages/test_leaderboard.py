"""The ranking and a study's predictors on the terminal, and as plain values."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from stage_results import Candidate, answers, audited, probed, run_of

from distill_ray.console import tables as console
from distill_ray.core.intervals import Interval
from distill_ray.stages.rank import rank
from distill_ray.stages.results.ranking import PHASES, Ranking
from distill_ray.study import tables as study_tables
from distill_ray.study.ranking.run import PredictorSummary

GOOD, FAIR = ({"organ": answers(60, 4, 0, right=share)} for share in (0.8, 0.5))


def shown(what: Any) -> str:
    out = Console(file=io.StringIO(), width=160, color_system=None)
    out.print(what)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def ranked(folder: Path) -> Ranking:
    """One that may serve, one that is too small, one that failed."""
    found = {
        "broad": Candidate(GOOD, (2.0, 2.0, 2.01)),
        "small": Candidate(FAIR, (1.0, 1.01, 1.0), size_ratio=0.5),
        "dead": Candidate(FAIR, (1.0, None, None)),
    }
    run = run_of(folder, *found, "unread")
    return rank(run, audited(run, found, failed={"unread": "no weights"}), probed(run, found))


def test_the_leaderboard_says_who_leads_who_is_marked_and_who_is_left_out(tmp_path: Path) -> None:
    made = ranked(tmp_path)
    text = shown(console.leaderboard(made, made.leaderboard))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "* small can't serve: no size advantage: 0.50 of the student's parameters" in lines
    assert (
        "dead is left out: probe: seed 1: out of luck at seed 1; seed 2: out of luck at seed 2"
        in lines
    )
    assert "unread is left out: audit: no weights" in lines
    assert [line for line in lines if line.endswith("separated at 95 %")] == [
        f"{stage}: separated at 95 %" for stage in PHASES
    ]
    assert text.count("small *") == 3 and "broad *" not in text


def test_the_leaderboard_has_the_scores_of_every_stage(tmp_path: Path) -> None:
    made = ranked(tmp_path)
    rows = [
        [cell.strip() for cell in line.strip()[1:-1].split("│")]
        for line in shown(console.leaderboard(made, made.leaderboard)).splitlines()
        if line.startswith("│")
    ]
    expected = [
        [
            stage if place == 0 else "",
            row.teacher + " *" * (row.teacher == "small"),
            f"{row.score:.3f}",
            f"{row.low:.3f} to {row.high:.3f}",
        ]
        for stage, standing in made.leaderboard.items()
        for place, row in enumerate(standing)
    ]
    assert len(expected) == 6 and [row[:4] for row in rows] == expected


def test_the_ranking_as_plain_values_can_be_written_as_json(tmp_path: Path) -> None:
    made = ranked(tmp_path)
    values = json.loads(json.dumps(console.ranking(made), allow_nan=False))
    assert values["failed"] == made.failed and set(values["failed"]) == {"dead", "unread"}
    assert values["ineligible"] == made.ineligible and values["verdicts"] == made.verdicts
    assert [row["teacher"] for row in values["leaderboard"]["late"]] == ["broad", "small"]


def test_predictors_are_listed_the_best_first() -> None:
    def row(value: float, regret: float) -> PredictorSummary:
        spearman = Interval(value, value - 0.25, value + 0.125)
        return PredictorSummary(spearman, value / 2, 0.0, regret, 2 * regret, 0.0, 1)

    summaries = {"size": row(0.25, 0.3), "ranking": row(0.5, 0)}
    text = shown(study_tables.predictors("held out", summaries))
    cells = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert cells[0] == "Held out"
    first, second = (line for line in cells if line.startswith(("ranking", "size")))
    assert first == "ranking 0.500 0.250 to 0.625 0.250 0.0% 0.0%"
    assert second == "size 0.250 0.000 to 0.375 0.125 30.0% 60.0%"
