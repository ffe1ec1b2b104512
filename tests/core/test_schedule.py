"""Schedules as pure state machines: the step before, at and after each handover."""

import json
from functools import partial

import pytest

from distill_ray.core import schedule
from distill_ray.core.schedule import Ladders, Observation, ScheduleState, advance, progress

LADDERS = Ladders({"a": 3, "b": 4}, max_steps=10)


def serving(decide, *, steps, losses=None, ladders=LADDERS, start=None):
    """The rung that serves each of the steps 0 … steps - 1, and the switches on the way."""
    state = start or ScheduleState("a", 0)
    rungs, switches = [], []
    for step in range(steps):
        rungs.append(state.rung)
        loss = 1.0 if losses is None else losses[step]
        state, switch = advance(state, Observation(step + 1, loss), ladders, decide)
        switches += [switch] if switch else []
    return rungs, switches


def test_fixed_keeps_the_best_rung():
    rungs, switches = serving(schedule.fixed, steps=10, start=ScheduleState("a", 2))
    assert rungs == [2] * 10
    assert switches == []


def test_at_steps_hands_over_on_the_listed_steps_and_not_before():
    rungs, switches = serving(partial(schedule.at_steps, steps=(3, 5)), steps=10)
    assert rungs == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert [(s.step, s.from_rung, s.to_rung) for s in switches] == [(3, 0, 1), (5, 1, 2)]


def test_at_steps_stops_at_the_best_rung():
    rungs, _ = serving(partial(schedule.at_steps, steps=(1, 2, 3, 4, 5)), steps=10)
    assert rungs == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("rungs", "steps"), [(3, 10), (3, 9), (4, 10), (1, 7), (5, 5)])
def test_equal_stages_gives_every_rung_its_share_in_order(rungs, steps):
    ladders = Ladders({"a": rungs}, max_steps=steps)
    served, switches = serving(schedule.equal_stages, steps=steps, ladders=ladders)
    assert served == sorted(served)
    assert all(abs(served.count(r) - steps / rungs) < 1 for r in range(rungs))
    for switch in switches:
        assert served[switch.step - 1] == switch.from_rung
        assert served[switch.step] == switch.to_rung == switch.from_rung + 1


def test_equal_stages_has_no_handover_after_the_last_rung():
    rungs, _ = serving(schedule.equal_stages, steps=15)
    assert rungs[-5:] == [2] * 5


@pytest.mark.parametrize(
    ("decide", "start"),
    [
        (schedule.fixed, 2),
        (schedule.equal_stages, 0),
        (partial(schedule.at_steps, steps=(1, 9)), 0),
        (partial(schedule.at_steps, steps=(10,)), 0),
    ],
)
def test_a_timetable_says_beforehand_which_rung_a_run_will_take(decide, start):
    state = ScheduleState("a", start)
    taken, _ = serving(decide, steps=LADDERS.max_steps, start=state)
    assert schedule.timetable(state, LADDERS, decide) == [("a", rung) for rung in taken]


def test_on_plateau_hands_over_after_two_flat_windows_and_starts_counting_anew():
    rungs, switches = serving(partial(schedule.on_plateau, window=3), steps=15)
    assert rungs == [0] * 6 + [1] * 6 + [2] * 3
    assert [s.step for s in switches] == [6, 12]


def test_on_plateau_waits_while_the_loss_falls():
    falling = [0.8**i for i in range(30)]
    rungs, _ = serving(partial(schedule.on_plateau, window=3), steps=30, losses=falling)
    assert rungs == [0] * 30


@pytest.mark.parametrize(("second", "hands_over"), [(0.75, False), (0.7500001, True), (1.5, True)])
def test_on_plateau_compares_the_means_of_the_two_windows(second, hands_over):
    # Means of 1 and `second`: a gain of 1/4 is just enough to stay.
    losses = [0.5, 1.5, second - 0.25, second + 0.25]
    plateau = partial(schedule.on_plateau, window=2, min_gain=0.25)
    _, switches = serving(plateau, steps=4, losses=losses)
    assert [s.step for s in switches] == ([4] if hands_over else [])


def test_on_plateau_sees_the_last_two_windows_only():
    # Steep at first, flat from step 4 on: both windows are flat after step 8.
    losses = [8.0, 4.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0]
    plateau = partial(schedule.on_plateau, window=2, min_gain=0.1)
    _, switches = serving(plateau, steps=8, losses=losses)
    assert [s.step for s in switches] == [8]


def test_on_plateau_leaves_the_best_rung_alone():
    last = ScheduleState("a", 2)
    _, switches = serving(partial(schedule.on_plateau, window=1), steps=10, start=last)
    assert switches == []


def test_memory_of_losses_is_bounded_and_holds_the_widest_window():
    state = ScheduleState("a", 2)
    for step in range(2100):
        seen = Observation(step + 1, float(step))
        state, _ = advance(state, seen, LADDERS, schedule.fixed)
    assert state.losses == tuple(float(i) for i in range(100, 2100))


RUNS = {
    "fixed": schedule.fixed,
    "at_steps": partial(schedule.at_steps, steps=(5, 17)),
    "equal_stages": schedule.equal_stages,
    "on_plateau": partial(schedule.on_plateau, window=4, min_gain=0.05),
}


def test_every_schedule_in_the_table_is_replayed_here():
    assert RUNS.keys() == schedule.SCHEDULES.keys()


@pytest.mark.parametrize("decide", RUNS.values(), ids=RUNS.keys())
def test_a_state_saved_anywhere_goes_on_with_the_same_switches(decide):
    ladders = Ladders({"a": 3, "b": 4}, max_steps=40)
    late_bloomer = schedule.Reassessment(
        factors={"a": {"ease": 1.0, "peak": 0.0}, "b": {"ease": 0.0, "peak": 1.0}},
        early={"ease": 1.0, "peak": 0.0},
        late={"ease": 0.0, "peak": 1.0},
        at_progress=(0.3, 0.7),
    )
    seen = [
        Observation(i + 1, 1 / (1 + i % 11), progress=i / 40 if i % 3 == 0 else None)
        for i in range(40)
    ]

    def play(state, observations):
        switches = []
        for one in observations:
            state, switch = advance(state, one, ladders, decide, late_bloomer)
            switches += [switch] if switch else []
        return state, switches

    for cut in range(41):
        start = ScheduleState("a", 0)
        whole, all_switches = play(start, seen)
        middle, early = play(start, seen[:cut])
        restored = ScheduleState.from_dict(json.loads(json.dumps(middle.to_dict())))
        assert restored == middle
        end, late = play(restored, seen[cut:])
        assert (end, early + late) == (whole, all_switches)
    assert any(s.to_teacher == "b" for s in all_switches)


@pytest.mark.parametrize(
    ("student", "expected"),
    [(3.0, 0.0), (2.0, 0.5), (1.0, 1.0), (4.0, 0.0), (0.5, 1.0), (2.5, 0.25)],
)
def test_progress_is_the_closed_share_of_the_gap_within_bounds(student, expected):
    assert progress(student, initial=3.0, best_teacher=1.0) == expected


@pytest.mark.parametrize("best_teacher", [3.0, 5.0])
def test_progress_is_complete_where_there_is_no_gap_to_close(best_teacher):
    assert progress(2.0, initial=3.0, best_teacher=best_teacher) == 1.0
