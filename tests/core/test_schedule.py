"""Schedules as pure state machines: the step before, at and after each handover."""

import json
import math
from dataclasses import replace
from functools import partial
from random import Random

import pytest

from distill_ray.core import schedule, schedules
from distill_ray.core.schedule import (
    MeasurementRequest,
    Observation,
    Reassessment,
    Rules,
    ScheduleState,
    TeacherCheckpoints,
    advance,
    progress,
)

CHECKPOINTS = TeacherCheckpoints({"a": 3, "b": 4}, max_steps=10)


def serving(decide, *, steps, losses=None, checkpoints=CHECKPOINTS, start=None):
    """The checkpoint that serves each of the steps 0 … steps - 1, and the switches on the way."""
    state = start or ScheduleState("a", 0)
    rungs, switches = [], []
    for step in range(steps):
        rungs.append(state.checkpoint_index)
        loss = 1.0 if losses is None else losses[step]
        moved = advance(state, Observation(step + 1, loss), checkpoints, decide)
        state, switch = moved.state, moved.switch
        switches += [switch] if switch else []
    return rungs, switches


def test_fixed_keeps_the_best_rung():
    rungs, switches = serving(schedules.fixed, steps=10, start=ScheduleState("a", 2))
    assert rungs == [2] * 10
    assert switches == []


def test_at_steps_hands_over_on_the_listed_steps_and_not_before():
    rungs, switches = serving(partial(schedules.at_steps, steps=(3, 5)), steps=10)
    assert rungs == [0, 0, 0, 1, 1, 2, 2, 2, 2, 2]
    assert [(s.step, s.from_checkpoint, s.to_checkpoint) for s in switches] == [
        (3, 0, 1),
        (5, 1, 2),
    ]


def test_at_steps_stops_at_the_best_rung():
    rungs, _ = serving(partial(schedules.at_steps, steps=(1, 2, 3, 4, 5)), steps=10)
    assert rungs == [0, 1, 2, 2, 2, 2, 2, 2, 2, 2]


@pytest.mark.parametrize(("rungs", "steps"), [(3, 10), (3, 9), (4, 10), (1, 7), (5, 5)])
def test_equal_periods_gives_every_rung_its_share_in_order(rungs, steps):
    checkpoints = TeacherCheckpoints({"a": rungs}, max_steps=steps)
    served, switches = serving(schedules.equal_periods, steps=steps, checkpoints=checkpoints)
    assert served == sorted(served)
    assert all(abs(served.count(r) - steps / rungs) < 1 for r in range(rungs))
    for switch in switches:
        assert served[switch.step - 1] == switch.from_checkpoint
        assert served[switch.step] == switch.to_checkpoint == switch.from_checkpoint + 1


def test_equal_periods_has_no_handover_after_the_last_rung():
    rungs, _ = serving(schedules.equal_periods, steps=15)
    assert rungs[-5:] == [2] * 5


@pytest.mark.parametrize(
    ("decide", "start"),
    [
        (schedules.fixed, 2),
        (schedules.equal_periods, 0),
        (partial(schedules.at_steps, steps=(1, 9)), 0),
        (partial(schedules.at_steps, steps=(10,)), 0),
    ],
)
def test_a_timetable_says_beforehand_which_rung_a_run_will_take(decide, start):
    state = ScheduleState("a", start)
    taken, _ = serving(decide, steps=CHECKPOINTS.max_steps, start=state)
    assert schedule.static_plan(state, CHECKPOINTS, decide) == [
        ("a", checkpoint_index) for checkpoint_index in taken
    ]


def test_on_plateau_hands_over_after_two_flat_windows_and_starts_counting_anew():
    rungs, switches = serving(partial(schedules.on_plateau, window=3), steps=15)
    assert rungs == [0] * 6 + [1] * 6 + [2] * 3
    assert [s.step for s in switches] == [6, 12]


def test_on_plateau_waits_while_the_loss_falls():
    falling = [0.8**i for i in range(30)]
    rungs, _ = serving(partial(schedules.on_plateau, window=3), steps=30, losses=falling)
    assert rungs == [0] * 30


@pytest.mark.parametrize(("second", "hands_over"), [(0.75, False), (0.7500001, True), (1.5, True)])
def test_on_plateau_compares_the_means_of_the_two_windows(second, hands_over):
    # Means of 1 and `second`: a gain of 1/4 is just enough to stay.
    losses = [0.5, 1.5, second - 0.25, second + 0.25]
    plateau = partial(schedules.on_plateau, window=2, min_gain=0.25)
    _, switches = serving(plateau, steps=4, losses=losses)
    assert [s.step for s in switches] == ([4] if hands_over else [])


def test_on_plateau_sees_the_last_two_windows_only():
    # Steep at first, flat from step 4 on: both windows are flat after step 8.
    losses = [8.0, 4.0, 2.0, 1.5, 1.0, 1.0, 1.0, 1.0]
    plateau = partial(schedules.on_plateau, window=2, min_gain=0.1)
    _, switches = serving(plateau, steps=8, losses=losses)
    assert [s.step for s in switches] == [8]


def test_on_plateau_leaves_the_best_rung_alone():
    last = ScheduleState("a", 2)
    _, switches = serving(partial(schedules.on_plateau, window=1), steps=10, start=last)
    assert switches == []


def test_memory_of_losses_is_bounded_and_holds_the_widest_window():
    state = ScheduleState("a", 2)
    for step in range(2100):
        seen = Observation(step + 1, float(step))
        state = advance(state, seen, CHECKPOINTS, schedules.fixed).state
    assert state.losses == tuple(float(i) for i in range(100, 2100))


RUNS = {
    "fixed": schedules.fixed,
    "at_steps": partial(schedules.at_steps, steps=(5, 17)),
    "equal_periods": schedules.equal_periods,
    "on_plateau": partial(schedules.on_plateau, window=4, min_gain=0.05),
    "scd": partial(schedules.scd, num_periods=5),
    "ranked": partial(schedules.ranked, interval=7, margin=0.01),
}


def test_every_schedule_in_the_table_is_replayed_here():
    assert RUNS.keys() == schedules.SCHEDULES.keys()


def answered(state, seen, checkpoints, decide, rules=None):
    """One step of a schedule whose questions are answered; figures depend on the step alone."""
    asked = []
    while isinstance(moved := advance(state, seen, checkpoints, decide, rules), MeasurementRequest):
        asked.append(moved)
        draw = Random(seen.step)
        figures = {
            c: {name: draw.random() for name in ("best", "student", "moved", "closed")}
            for c in moved.checkpoints
        }
        seen = replace(seen, progress=seen.step / 40, measurements={moved.kind: figures})
    return moved, asked


@pytest.mark.parametrize("decide", RUNS.values(), ids=RUNS.keys())
def test_a_state_saved_anywhere_goes_on_with_the_same_switches(decide):
    late_bloomer = schedule.RankingWeights(
        factors={
            "a": {"learnability": 1.0, "accuracy_above_chance": 0.0},
            "b": {"learnability": 0.0, "accuracy_above_chance": 1.0},
        },
        early={"learnability": 1.0, "accuracy_above_chance": 0.0},
        late={"learnability": 0.0, "accuracy_above_chance": 1.0},
    )
    checkpoints = TeacherCheckpoints({"a": 3, "b": 4}, max_steps=40, ranking=late_bloomer)
    rules = Rules(Reassessment((0.3, 0.7)))
    seen = [Observation(0, math.nan)] + [
        Observation(i + 1, 1 / (1 + i % 11), progress=i / 40 if i % 3 == 0 else None)
        for i in range(40)
    ]

    def play(state, observations):
        switches = []
        for one in observations:
            moved, _ = answered(state, one, checkpoints, decide, rules)
            state = moved.state
            switches += [moved.switch] if moved.switch else []
        return state, switches

    for cut in range(42):
        start = ScheduleState("a", 0)
        whole, all_switches = play(start, seen)
        middle, early = play(start, seen[:cut])
        restored = ScheduleState.from_dict(json.loads(json.dumps(middle.to_dict())))
        assert restored == middle
        end, late = play(restored, seen[cut:])
        assert (end, early + late) == (whole, all_switches)
    assert any(s.to_teacher == "b" for s in all_switches)


def test_what_a_schedule_asks_changes_nothing_until_it_is_answered():
    state = ScheduleState("a", 1, losses=(2.0,), memory={"teacher": "a", "stage": 0, "best": [0.0]})
    seen = Observation(9, 1.0)
    asked = advance(state, seen, TeacherCheckpoints({"a": 3}, 12), schedules.scd)
    assert asked == MeasurementRequest(
        "divergences", (("a", 0), ("a", 1), ("a", 2)), {"to_best": False}
    )
    figures = {c: {"student": float(c[1] != 0)} for c in asked.checkpoints}
    known = replace(state, memory={**state.memory, "best": [0.0, 0.0, 0.0]})
    moved = advance(
        known,
        replace(seen, measurements={"divergences": figures}),
        TeacherCheckpoints({"a": 3}, 12),
        schedules.scd,
    )
    assert moved.state.checkpoint == ("a", 0)
    assert moved.switch.step == 9 and moved.switch.changes


# SCD


def scd_at(step, best, student, *, state=None, checkpoints=None, **options):
    """What SCD chooses with these divergences, and whether it asked for those to the best."""
    checkpoints = checkpoints or TeacherCheckpoints({"a": len(best)}, max_steps=9)
    state = state or ScheduleState("a", 0)
    asked = advance(state, Observation(step, 1.0), checkpoints, partial(schedules.scd, **options))
    if not isinstance(asked, MeasurementRequest):
        return asked, None
    rows = zip(asked.checkpoints, best, student, strict=True)
    figures = {c: {"best": b, "student": s} for c, b, s in rows}
    seen = Observation(step, 1.0, measurements={"divergences": figures})
    return advance(state, seen, checkpoints, partial(schedules.scd, **options)), asked.options[
        "to_best"
    ]


@pytest.mark.parametrize(
    ("best", "student", "checkpoint_index"),
    [
        ([3.0, 1.0, 0.0], [0.0, 1.0, 4.0], 1),
        ([3.0, 1.0, 0.0], [0.0, 9.0, 9.0], 0),
        ([3.0, 1.0, 0.0], [9.0, 9.0, 9.0], 2),
        # A student that is the best checkpoint: both distances of it are 0.
        ([3.0, 1.0, 0.0], [3.0, 1.0, 0.0], 2),
        # Of equal ones, the one that has been trained further.
        ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0], 2),
    ],
)
def test_scd_takes_the_least_sum_of_both_distances(best, student, checkpoint_index):
    moved, _ = scd_at(0, best, student)
    assert moved.state.checkpoint == ("a", checkpoint_index)
    sums = {f"checkpoint {k + 1}": b + s for k, (b, s) in enumerate(zip(best, student))}
    assert moved.switch.numbers == sums


def test_scd_asks_at_the_first_step_of_each_stage_and_of_the_best_once():
    state, asked, chosen = ScheduleState("a", 2), [], []
    for step in range(10):
        moved, to_best = scd_at(step, [2.0, 1.0, 0.0], [step / 3, 1.0, 3 - step / 3], state=state)
        state = moved.state
        asked += [] if to_best is None else [(step, to_best)]
        chosen.append(state.checkpoint_index)
    # Checkpoint 0 costs 2 + s/3, checkpoint 1 costs 2, checkpoint 2 costs 3 - s/3.
    assert asked == [(0, True), (3, False), (6, False)]
    assert chosen == [1, 1, 1, 2, 2, 2, 2, 2, 2, 2]


def test_scd_may_have_any_number_of_stages():
    checkpoints = TeacherCheckpoints({"a": 2}, max_steps=12)
    state, asked = ScheduleState("a", 0), []
    for step in range(12):
        moved, to_best = scd_at(
            step, [0.0, 0.0], [0, 0], state=state, checkpoints=checkpoints, num_periods=4
        )
        state = moved.state
        asked += [] if to_best is None else [step]
    assert asked == [0, 3, 6, 9]


def test_scd_of_another_teacher_measures_its_ladder():
    checkpoints = TeacherCheckpoints({"a": 2, "b": 3}, max_steps=12)
    state = ScheduleState("b", 2, memory={"teacher": "a", "stage": 0, "best": [1.0, 0.0]})
    moved, to_best = scd_at(1, [0.0, 1.0, 1.0], [0.0] * 3, state=state, checkpoints=checkpoints)
    assert to_best is True
    assert moved.state.checkpoint == ("b", 0)


def test_an_assessment_that_changes_nothing_is_told_all_the_same():
    moved, _ = scd_at(0, [1.0, 0.0], [1.0, 0.0], state=ScheduleState("a", 1))
    assert moved.switch is not None and not moved.switch.changes
    assert moved.state.begun


# The first step, and what is read ahead


@pytest.mark.parametrize(
    ("decide", "checkpoint_index", "begun"),
    [
        (schedules.fixed, 2, True),
        (schedules.equal_periods, 0, True),
        (partial(schedules.at_steps, steps=(1,)), 0, True),
        (schedules.on_plateau, 0, True),
        (schedules.ranked, 2, True),
        (schedules.scd, 2, False),
    ],
)
def test_a_schedule_says_where_it_begins_unless_it_must_measure_first(
    decide, checkpoint_index, begun
):
    state = schedule.begin("a", CHECKPOINTS, decide)
    assert (state.checkpoint, state.begun, state.losses) == (("a", checkpoint_index), begun, ())


def test_a_schedule_that_measures_has_no_timetable():
    with pytest.raises(ValueError, match="divergences has no static plan"):
        schedule.static_plan(ScheduleState("a", 0), CHECKPOINTS, schedules.scd)


def test_the_next_rung_is_read_shortly_before_its_known_turn():
    checkpoints = TeacherCheckpoints({"a": 2}, max_steps=200)
    state, upcoming = ScheduleState("a", 0), []
    for step in range(1, 200):
        moved = advance(state, Observation(step, 1.0), checkpoints, schedules.equal_periods)
        state = moved.state
        upcoming += [(step, moved.upcoming)] if moved.upcoming else []
    assert upcoming == [(step, ("a", 1)) for step in range(90, 100)]


def test_at_a_plateau_s_approach_the_next_rung_is_read():
    plateau = partial(schedules.on_plateau, window=2, min_gain=0.1)
    state = ScheduleState("a", 0)
    found = []
    for step, loss in enumerate([4.0, 4.0, 3.0, 3.0, 2.7, 2.5], start=1):
        moved = advance(state, Observation(step, loss), CHECKPOINTS, plateau)
        state = moved.state
        found.append((moved.upcoming, moved.switch))
    # Gains of two windows: 25 %, 18.6 %, 13.3 %; under twice the least, the next one may be near.
    assert found == [(None, None)] * 4 + [(("a", 1), None)] * 2


@pytest.mark.parametrize(
    ("student", "expected"),
    [(3.0, 0.0), (2.0, 0.5), (1.0, 1.0), (4.0, 0.0), (0.5, 1.0), (2.5, 0.25)],
)
def test_progress_is_the_closed_share_of_the_gap_within_bounds(student, expected):
    assert progress(student, initial=3.0, best_teacher=1.0) == expected


@pytest.mark.parametrize("best_teacher", [3.0, 5.0])
def test_progress_is_complete_where_there_is_no_gap_to_close(best_teacher):
    assert progress(2.0, initial=3.0, best_teacher=best_teacher) == 1.0
