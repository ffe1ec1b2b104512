"""Which probes come next: where it is open who leads, and for as long as there is budget."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from stage_results import Candidate, answers, audited, probed, run_of

from distill_ray.stages.selection.factors import gather, next_wave, race_state

TASK = {"organ": answers(60, 4, 0, right=0.8)}
WORSE = {"organ": answers(60, 4, 0, right=0.3)}
EQUAL = Candidate(TASK, (2.0, 2.1, 2.3))
BEATEN = Candidate(WORSE, (0.5, 0.51, 0.5))
RACE = {"confidence": 0.9, "max_seeds": 5}


def wave(folder: Path, found: Mapping[str, Candidate], race: Any = RACE) -> list[tuple[str, int]]:
    run = run_of(folder, *found, probe={"race": race})
    table = probed(run, found)
    return next_wave(run.cfg, gather(run.cfg, audited(run, found), table), table.seeds())


def test_only_teachers_that_may_still_lead_get_another_seed(tmp_path: Path) -> None:
    found = {"a": EQUAL, "beaten": BEATEN, "b": EQUAL}
    assert sorted(wave(tmp_path, found)) == [("a", 3), ("b", 3)]


def test_a_race_that_is_decided_has_no_next_wave(tmp_path: Path) -> None:
    assert wave(tmp_path, {"a": Candidate(TASK, (2.0, 2.0, 2.01)), "beaten": BEATEN}) == []


def test_without_a_race_all_teachers_keep_to_the_seeds_of_the_config(tmp_path: Path) -> None:
    found = {"a": EQUAL, "b": EQUAL}
    assert wave(tmp_path, found) and wave(tmp_path, found, race=None) == []


def test_a_race_ends_with_its_budget(tmp_path: Path) -> None:
    found = {"a": Candidate(TASK, (2.0, 2.1, 2.3, 2.2)), "b": Candidate(TASK, (2.1, 2.0, 2.2, 2.3))}
    assert sorted(wave(tmp_path, found)) == [("a", 4), ("b", 4)]
    assert wave(tmp_path, found, race={**RACE, "max_seeds": 4}) == []


def test_a_seed_that_failed_is_not_run_again(tmp_path: Path) -> None:
    found = {"a": Candidate(TASK, (2.0, 2.1, 2.3, None)), "b": EQUAL}
    assert wave(tmp_path, found) == [("b", 3)], "a has had that seed, b catches up"
    found["b"] = Candidate(TASK, (2.0, 2.1, 2.3, 2.2))
    assert sorted(wave(tmp_path, found)) == [("a", 4), ("b", 4)]


def test_failed_seeds_count_towards_the_budget(tmp_path: Path) -> None:
    found = {
        "a": Candidate(TASK, (2.0, 2.1, 2.3, None, None)),
        "b": Candidate(TASK, (2.1, 2.0, 2.2, 2.3, 2.1)),
    }
    assert wave(tmp_path, found) == []
    assert sorted(wave(tmp_path, found, race={**RACE, "max_seeds": 6})) == [("a", 5), ("b", 5)]


def test_a_race_needs_two_teachers_that_can_be_ranked(tmp_path: Path) -> None:
    assert wave(tmp_path, {"a": EQUAL, "dead": Candidate(TASK, (None, None, None))}) == []


def test_where_teachers_stand_depends_on_the_student_s_progress(tmp_path: Path) -> None:
    """One is easy, the other good: weights move from what is easy to what is good."""
    importance = dict.fromkeys(
        ("learnability", "accuracy_above_chance", "domain_knowledge", "calibration"), "low"
    )
    weights = {
        "early": {**importance, "learnability": "critical"},
        "late": {**importance, "accuracy_above_chance": "critical", "domain_knowledge": "critical"},
    }
    found = {"easy": Candidate(WORSE, (4.0, 4.01, 4.0)), "good": Candidate(TASK, (1.0, 1.0, 1.01))}
    run = run_of(tmp_path, *found, rank=weights)
    seen = gather(run.cfg, audited(run, found), probed(run, found))
    early, late = (race_state(run.cfg, seen, progress, 0.9) for progress in (0.0, 1.0))
    assert (early.leader, late.leader) == ("easy", "good")
    assert early.separated and late.separated


@pytest.mark.parametrize("looks", [1, 20])
def test_more_looks_at_a_race_need_more_to_close_a_teacher(tmp_path: Path, looks: int) -> None:
    # It leads with a probability of about .06: less than .1, more than .1 / 20.
    found = {"a": EQUAL, "close": Candidate(TASK, (1.5, 2.0, 1.9))}
    run = run_of(tmp_path, *found)
    seen = gather(run.cfg, audited(run, found), probed(run, found))
    race = race_state(run.cfg, seen, 0.5, 0.9, looks)
    assert race.separated == (looks == 1), race.probability_best


def test_every_look_that_a_race_may_take_counts(tmp_path: Path) -> None:
    found = {"a": EQUAL, "close": Candidate(TASK, (1.5, 2.0, 1.9))}
    assert wave(tmp_path, found, race={**RACE, "max_seeds": 4}), "three looks"
    sure = Candidate(TASK, (1.6, 1.7, 1.75))
    few, many = (
        wave(tmp_path, {"a": EQUAL, "close": sure}, race={**RACE, "max_seeds": seeds})
        for seeds in (4, 40)
    )
    assert few == [] and sorted(many) == [("a", 3), ("close", 3)]
