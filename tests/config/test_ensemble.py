"""Several teachers at once, against what goes with them."""

import pytest

from distill_ray.config.ensemble import STRATEGY_NAMES
from distill_ray.core.strategies import STRATEGIES

KNOWN = {"distill/schedule": {"kind": "fixed"}}


def several(**changes):
    return {**KNOWN, "distill/ensemble": changes}


def test_strategies_are_those_of_core():
    assert set(STRATEGY_NAMES) == set(STRATEGIES)


@pytest.mark.parametrize("kind", ["fixed", "equal_periods", "on_plateau"])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "mine:strategy"])
def test_every_strategy_goes_with_schedules_of_rungs(editor, strategy, kind):
    changes = {**several(strategy=strategy), "distill/schedule": {"kind": kind}}
    assert editor.load(changes).distill.ensemble.strategy == strategy


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distill/schedule": {"kind": "scd"}}, "schedule scd chooses among single checkpoints"),
        ({"distill/schedule": {"kind": "ranked"}}, "schedule ranked chooses among single"),
        (
            {"distill/reassess": {"at_progress": [0.5]}},
            "reassess.at_progress [0.5] changes the one",
        ),
        ({"distill/serving": {"kind": "cached"}}, "serving cached answers for one"),
        ({"distill/serving": {"kind": "pool"}}, "serving pool answers for one"),
        ({"distill/objective": {"match": {"hidden": {}}}}, "objective.match reads the layers"),
        ({"distill/first_teacher": "big"}, "first_teacher big begins alone"),
    ],
)
def test_what_needs_one_teacher_at_a_time_is_refused(editor, changes, said):
    (problem,) = editor.problems({**several(), **changes})
    assert problem.startswith(f"distill: ensemble: all teach at a time, but {said}")
    assert "Set a schedule fixed, at_steps, equal_periods or on_plateau" in problem


def test_shards_of_all_of_them_may_be_spread_over_the_workers(editor):
    shard = {"kind": "colocated", "shard": True}
    assert editor.load({**several(), "distill/serving": shard}).distill.serving.shard


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strategy": "averge"}, "strategy: no 'averge'. Did you mean 'average'?"),
        ({"options": {"x": 1}}, "options: average takes none, got x"),
        (
            {"assignment": {"notes": "big"}},
            "assignment is read by the strategy by_domain, and it is average",
        ),
        ({"teachers": ["big", "big"]}, "teachers: each once, got ['big', 'big']"),
        (
            {"strategy": "by_domain", "teachers": ["big", "wide"], "assignment": {"notes": "odd"}},
            "assignment.notes: 'odd' isn't one of them",
        ),
    ],
)
def test_a_group_that_is_none_is_refused(editor, given, said):
    (problem,) = editor.problems(several(**given))
    assert problem.startswith(f"distill.ensemble: {said}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"teachers": ["big", "wid"]}, "ensemble.teachers: no teacher 'wid'. Did you mean 'wide'?"),
        (
            {"strategy": "by_domain", "assignment": {"triage.labeled": "big"}},
            "ensemble.assignment.triage.labeled: no such stream or task. Did you mean 'triage.",
        ),
        (
            {"strategy": "by_domain", "assignment": {"triage": "bgi"}},
            "ensemble.assignment.triage: no teacher 'bgi'. Did you mean 'big'?",
        ),
    ],
)
def test_names_that_are_not_there_are_refused(editor, given, said):
    (problem,) = editor.problems(several(**given))
    assert f"distill.{said}" in problem


def test_a_task_or_a_stream_can_be_given_a_teacher(editor):
    given = {"triage": "big", "notes": "wide", "triage.prompts": "wide"}
    made = editor.load(several(strategy="by_domain", assignment=given)).distill.ensemble
    assert made.assignment == given


def test_no_teacher_has_the_name_of_a_group(editor):
    (problem,) = editor.problems({"teachers/1/name": "ensemble"})
    assert "'ensemble' is what a group is called" in problem


def test_one_teacher_is_no_group(editor):
    (problem,) = editor.problems(several(), drop=["teachers/1"])
    assert "distill.ensemble: there is one teacher" in problem


def test_who_begins_must_be_a_teacher(editor):
    assert editor.load({"distill/first_teacher": "wide"}).distill.first_teacher == "wide"
    (problem,) = editor.problems({"distill/first_teacher": "wde"})
    assert "distill.first_teacher: no teacher 'wde'. Did you mean 'wide'?" in problem
