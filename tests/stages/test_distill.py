"""Who begins to teach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_results import Candidate, answers, audited, probed, run_of

from distill_ray.config import InputError
from distill_ray.stages.rank import rank
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.training.teaching import first_of

CANDIDATES = {
    name: Candidate({"organ": answers(60, 4, 0, right=right)})
    for name, right in (("good", 0.9), ("poor", 0.3))
}


def begins(folder: Path, **distill: Any) -> tuple[str, Ranking]:
    run = run_of(folder, *CANDIDATES, tasks=("organ",), distill=distill)
    ranking = rank(run, audited(run, CANDIDATES), probed(run, CANDIDATES))
    return first_of(run.cfg.distill, ranking), ranking


def test_the_leader_of_the_early_ranking_begins_unless_the_config_names_another(
    tmp_path: Path,
) -> None:
    first, ranking = begins(tmp_path / "a")
    assert first == ranking.best("early") == "good"
    assert begins(tmp_path / "b", first_teacher="poor")[0] == "poor"


def test_a_named_teacher_that_cannot_serve_is_told_with_the_reason(tmp_path: Path) -> None:
    run = run_of(tmp_path, *CANDIDATES, tasks=("organ",), distill={"first_teacher": "poor"})
    scored = audited(run, {"good": CANDIDATES["good"]}, failed={"poor": "its weights are torn"})
    ranking = rank(run, scored, probed(run, {"good": CANDIDATES["good"]}))
    with pytest.raises(InputError) as caught:
        first_of(run.cfg.distill, ranking)
    (problem,) = caught.value.problems
    assert problem.where == "distill.first_teacher"
    assert problem.what == "poor can't serve: audit: its weights are torn."
