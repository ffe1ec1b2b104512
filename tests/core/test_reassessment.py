"""The ranking computed anew on the way: thresholds, margin, monotone progress."""

from functools import partial

import pytest

from distill_ray.core import schedule
from distill_ray.core.schedule import Ladders, Observation, Reassessment, ScheduleState, advance

LADDERS = Ladders({"easy": 3, "strong": 4}, max_steps=100)


def reassessment(**changes):
    """`easy` leads by 1 - 2·progress: behind from progress 1/2 on."""
    values = {
        "factors": {"easy": {"ease": 1.0, "peak": 0.0}, "strong": {"ease": 0.0, "peak": 1.0}},
        "early": {"ease": 1.0, "peak": 0.0},
        "late": {"ease": 0.0, "peak": 1.0},
        "at_progress": (0.25, 0.75),
    }
    return Reassessment(**{**values, **changes})


def play(progresses, rule, decide=schedule.fixed, state=None):
    """State after each observation, and the switches; None stands for a step without validation."""
    state = state or ScheduleState("easy", 2)
    states, switches = [], []
    for number, value in enumerate(progresses, start=1):
        seen = Observation(number, 1.0, value)
        state, switch = advance(state, seen, LADDERS, decide, rule)
        states.append(state)
        switches += [switch] if switch else []
    return states, switches


def test_the_teacher_changes_at_the_threshold_and_not_before():
    rule = reassessment(at_progress=(0.75,))
    _, switches = play([0.1, None, 0.7, 0.74, 0.75, 0.9], rule)
    (switch,) = switches
    assert (switch.step, switch.from_teacher, switch.to_teacher) == (5, "easy", "strong")
    assert "reassessed at progress 0.75" in switch.reason


def test_a_threshold_where_the_current_teacher_still_leads_changes_nothing():
    states, switches = play([0.3], reassessment())
    assert switches == []
    assert states[-1].reassessed == 1


def test_without_a_threshold_reached_a_better_teacher_waits():
    _, switches = play([0.7, 0.7, 0.7], reassessment(at_progress=(0.75,)))
    assert switches == []


def test_each_threshold_is_used_once_even_when_the_lead_grows_later():
    # At .75 the lead is .5, under the margin; at .95 it would suffice, but no threshold is left.
    states, switches = play([0.75, 0.95, 1.0], reassessment(margin=0.6))
    assert switches == []
    assert [s.reassessed for s in states] == [2, 2, 2]


def test_two_thresholds_passed_at_once_are_one_reassessment():
    states, switches = play([0.8, 0.8], reassessment())
    assert [s.step for s in switches] == [1]
    assert [s.reassessed for s in states] == [2, 2]


@pytest.mark.parametrize(("margin", "switched"), [(0.0, True), (0.5, True), (0.501, False)])
def test_a_new_teacher_must_lead_by_the_margin(margin, switched):
    # Scores at .75: strong .75, easy .25.
    _, switches = play([0.75], reassessment(margin=margin))
    assert bool(switches) is switched


def test_noise_never_takes_progress_back():
    states, switches = play([0.2, 0.8, 0.1, None, 0.3, 0.8], reassessment())
    assert [s.progress for s in states] == [0.2, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert [s.step for s in switches] == [2]


def test_a_step_without_validation_reassesses_nothing():
    states, _ = play([None] * 3, reassessment(at_progress=(0.0,)))
    assert all(s.reassessed == 0 for s in states)


@pytest.mark.parametrize(
    ("decide", "rung"),
    [
        (schedule.fixed, 3),
        (schedule.equal_stages, 2),
        (partial(schedule.at_steps, steps=(10, 20, 30, 90)), 3),
        (partial(schedule.on_plateau, window=1000), 1),
    ],
    ids=["fixed", "equal_stages", "at_steps", "on_plateau"],
)
def test_the_new_teacher_enters_at_the_rung_of_the_schedule(decide, rung):
    state, switch = advance(
        ScheduleState("easy", 1), Observation(50, 1.0, 0.8), LADDERS, decide, reassessment()
    )
    assert (state.teacher, state.rung, state.losses) == ("strong", rung, ())
    assert (switch.to_teacher, switch.to_rung) == ("strong", rung)


def test_a_shorter_ladder_is_entered_at_its_best_rung():
    rule = reassessment(
        factors={"easy": {"ease": 0.0, "peak": 1.0}, "strong": {"ease": 1.0, "peak": 0.0}}
    )
    plateau = partial(schedule.on_plateau, window=1000)
    states, _ = play([0.8], rule, plateau, ScheduleState("strong", 3))
    assert (states[-1].teacher, states[-1].rung) == ("easy", 2)
