"""Whose each stream is, from what audits and probes have found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_results import Candidate, answers, audited, probed, run_of
from tiny_run import config, training

from distill_ray.config import InputError, RunConfig
from distill_ray.config.ensemble import EnsembleConfig
from distill_ray.runtime.run import Run
from distill_ray.stages.preflight.check import find_problems
from distill_ray.stages.preflight.plan import plan
from distill_ray.stages.rank import rank
from distill_ray.stages.reporting.tables import tokens
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.serving.members import ensemble_of, losses_by_domain, members_of

TASKS = ("organ", "side")
ALONE: dict[str, Any] = {"schedule": {"kind": "fixed"}, "reassess": {"at_progress": []}}


def knowing(organ: float, side: float, text: float, **changes: Any) -> Candidate:
    """A teacher with shares of right answers, and a loss on text."""
    asked = {"organ": answers(60, 4, 0, right=organ), "side": answers(60, 4, 1, right=side)}
    return Candidate(asked, text={"findings": text}, **changes)


CANDIDATES = {
    "surgeon": knowing(0.95, 0.4, 3.0),
    "pilot": knowing(0.4, 0.95, 3.1),
    "writer": knowing(0.5, 0.5, 2.0),
}


def run_with(folder: Path, **several: Any) -> Run:
    return run_of(folder, *CANDIDATES, tasks=TASKS, distill={**ALONE, "ensemble": several})


def ranked(run: Run, **changed: Candidate) -> Ranking:
    found = {**CANDIDATES, **changed}
    return rank(run, audited(run, found), probed(run, found))


def assignment(run: Run, ranking: Ranking) -> Any:
    made = ensemble_of(run.cfg, ranking)
    assert made is not None and made.strategy == "by_domain"
    return made.options["assignment"]


def test_each_domain_goes_to_the_teacher_that_is_best_there(tmp_path: Path) -> None:
    run = run_with(tmp_path, strategy="by_domain")
    assert assignment(run, ranked(run)) == {
        "findings": "writer",
        "organ.labelled": "surgeon",
        "organ.prompts": "surgeon",
        "side.labelled": "pilot",
        "side.prompts": "pilot",
    }


def test_losses_are_those_of_what_would_be_taught_and_of_the_corpus(tmp_path: Path) -> None:
    run = run_with(tmp_path, strategy="by_domain")
    evidence = ranked(run).evidence
    losses = losses_by_domain(run.cfg, evidence)
    assert list(losses) == ["organ", "side", "findings"]
    assert losses["findings"] == {"surgeon": 3.0, "pilot": 3.1, "writer": 2.0}
    for i, task in enumerate(TASKS):
        assert losses[task] == {n: row.taught[i].nll for n, row in evidence.items()}
        assert len(set(losses[task].values())) == 3


def test_what_the_config_gives_stays_and_a_stream_counts_before_its_task(tmp_path: Path) -> None:
    given = {"organ": "pilot", "organ.prompts": "writer", "findings": "surgeon"}
    run = run_with(tmp_path, strategy="by_domain", assignment=given)
    assert assignment(run, ranked(run)) == {
        "findings": "surgeon",
        "organ.labelled": "pilot",
        "organ.prompts": "writer",
        "side.labelled": "pilot",
        "side.prompts": "pilot",
    }


def test_one_that_could_not_be_ranked_is_passed_over(tmp_path: Path) -> None:
    given = {"findings": "writer", "organ": "surgeon"}
    run = run_with(tmp_path, strategy="by_domain", assignment=given)
    ranking = ranked(run, writer=knowing(0.5, 0.5, 2.0, moved=(1.0, None)))
    assert "writer" in ranking.failed
    found = assignment(run, ranking)
    assert found["findings"] == "surgeon" and found["organ.prompts"] == "surgeon"


def test_members_are_those_that_may_teach_or_those_that_are_named(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    small = knowing(0.95, 0.4, 3.0, size_ratio=0.5)
    ranking = ranked(run, surgeon=small)
    assert set(members_of(EnsembleConfig(), ranking)) == {"pilot", "writer"}
    named = members_of(EnsembleConfig(teachers=("surgeon", "pilot")), ranking)
    places = [row.teacher for row in ranking.leaderboard["middle"]]
    assert sorted(named) == ["pilot", "surgeon"] and named == sorted(named, key=places.index)


def test_nobody_left_is_said(tmp_path: Path) -> None:
    run = run_with(tmp_path)
    gone = {n: knowing(0.5, 0.5, 2.0, moved=(1.0, None)) for n in ("surgeon", "pilot")}
    with pytest.raises(InputError) as caught:
        members_of(EnsembleConfig(teachers=("surgeon", "pilot")), ranked(run, **gone))
    assert "none of them is ranked: surgeon: probe: seed 1" in str(caught.value.problems[0])


def test_other_strategies_are_handed_on_with_their_options(tmp_path: Path) -> None:
    run = run_with(tmp_path, strategy="mine:strategy", options={"share": 0.5})
    made = ensemble_of(run.cfg, ranked(run))
    assert made is not None and (made.strategy, made.options) == ("mine:strategy", {"share": 0.5})
    alone = run_of(tmp_path / "alone", *CANDIDATES, tasks=TASKS)
    assert ensemble_of(alone.cfg, ranked(alone)) is None


def configured(folder: Path, **changes: Any) -> RunConfig:
    mix = {"organ.labelled": 1, "organ.prompts": 2, "findings": 1}
    return RunConfig.model_validate(config(folder, distill=training(mix=mix, **ALONE, **changes)))


def test_a_strategy_that_is_not_there_is_a_problem_of_the_config(tmp_path: Path) -> None:
    cfg = configured(tmp_path, ensemble={"strategy": "nowhere:at_all"})
    (found,) = [p for p in find_problems(cfg, "tiny.yaml") if "ensemble" in p.where]
    assert "'nowhere:at_all' can't be imported" in found.what
    known = "distill_ray.core.strategies:by_domain"
    cfg = configured(tmp_path, ensemble={"strategy": known, "options": {"assigment": {}}})
    (found,) = [p for p in find_problems(cfg, "tiny.yaml") if "ensemble" in p.where]
    assert "unknown option 'assigment'. Did you mean 'assignment'?" in found.what


def test_all_that_teach_at_once_are_in_the_worker_s_memory(tmp_path: Path) -> None:
    def need(**changes: Any) -> Any:
        works = plan(configured(tmp_path, **changes)).work
        return next(w for w in works if w.what.startswith("student, schedule fixed"))

    alone, both = need(), need(ensemble={"strategy": "average"})
    assert both.what == "student, schedule fixed, several teachers: average"
    sizes = [4 * sum(_parameters(width)) for width in (32, 48)]
    assert (alone.need.teacher, both.need.teacher) == (max(sizes), sum(sizes))
    assert both.need.loss > alone.need.loss
    shard = {"serving": {"kind": "colocated", "shard": True}}
    heads = 4 * 320 * (32 + 48)
    part = need(ensemble={"strategy": "average"}, **shard).need.teacher
    assert part == pytest.approx(heads + (sum(sizes) - heads) / 2, abs=4)


def _parameters(width: int) -> tuple[int, ...]:
    """Of a model of `findings.tiny_model`: embeddings, two layers, and the last norm."""
    layer = 4 * width**2 + 3 * width * 2 * width + 2 * width
    return 320 * width, 2 * layer, width


def test_tokens_are_shown_with_their_shares_and_streams() -> None:
    taught = {"big": 3000.0, "old": 1000.0}
    made = tokens(taught, {"notes": "old", "triage.labelled": "big", "triage.prompts": "big"})
    assert made.rows == [
        ["big", "3 k", "75.0%", "triage.labelled, triage.prompts"],
        ["old", "1 k", "25.0%", "notes"],
    ]
    assert tokens(taught, {}).columns == ["Teacher", "Tokens", "Share"]
    assert tokens({}, {}).rows == []
