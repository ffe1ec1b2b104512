"""The ranking computed anew on the way: thresholds, margin, monotone progress."""

from functools import partial

import pytest

from distill_ray.core import schedules
from distill_ray.core.schedule import (
    MeasurementRequest,
    Observation,
    RankingWeights,
    Reassessment,
    Rules,
    ScheduleState,
    Smoothing,
    TeacherCheckpoints,
    advance,
)
from distill_ray.core.schedules import candidate_scores

EASY_EARLY = RankingWeights(
    factors={
        "easy": {"learnability": 1.0, "accuracy_above_chance": 0.0},
        "strong": {"learnability": 0.0, "accuracy_above_chance": 1.0},
    },
    early={"learnability": 1.0, "accuracy_above_chance": 0.0},
    late={"learnability": 0.0, "accuracy_above_chance": 1.0},
)
"""`easy` leads by 1 - 2·progress: behind from progress 1/2 on."""


def checkpoints(ranking=EASY_EARLY):
    return TeacherCheckpoints({"easy": 3, "strong": 4}, max_steps=100, ranking=ranking)


def rules(*at, margin=0.0, **smoothing):
    return Rules(Reassessment(at, margin), Smoothing(**smoothing))


def play(progresses, rule, decide=schedules.fixed, state=None, ranking=EASY_EARLY):
    """State after each observation, and the switches; None stands for a step without validation."""
    state = state or ScheduleState("easy", 2)
    states, switches = [], []
    for number, value in enumerate(progresses, start=1):
        moved = advance(state, Observation(number, 1.0, value), checkpoints(ranking), decide, rule)
        state = moved.state
        states.append(state)
        switches += [moved.switch] if moved.switch else []
    return states, switches


def test_the_teacher_changes_at_the_threshold_and_not_before():
    _, switches = play([0.1, None, 0.7, 0.74, 0.75, 0.9], rules(0.75))
    (switch,) = switches
    assert (switch.step, switch.from_teacher, switch.to_teacher) == (5, "easy", "strong")
    assert "reassessed at progress 0.75" in switch.reason


def test_a_threshold_where_the_current_teacher_still_leads_changes_nothing():
    states, switches = play([0.3], rules(0.25, 0.75))
    assert switches == []
    assert states[-1].reassessed == 1


def test_without_a_threshold_reached_a_better_teacher_waits():
    _, switches = play([0.7, 0.7, 0.7], rules(0.75))
    assert switches == []


def test_each_threshold_is_used_once_even_when_the_lead_grows_later():
    # At .75 the lead is .5, under the margin; at .95 it would suffice, but no threshold is left.
    states, switches = play([0.75, 0.95, 1.0], rules(0.25, 0.75, margin=0.6))
    assert switches == []
    assert [s.reassessed for s in states] == [2, 2, 2]


def test_two_thresholds_passed_at_once_are_one_reassessment():
    states, switches = play([0.8, 0.8], rules(0.25, 0.75))
    assert [s.step for s in switches] == [1]
    assert [s.reassessed for s in states] == [2, 2]


@pytest.mark.parametrize(("margin", "switched"), [(0.0, True), (0.5, True), (0.501, False)])
def test_a_new_teacher_must_lead_by_the_margin(margin, switched):
    # Scores at .75: strong .75, easy .25.
    _, switches = play([0.75], rules(0.25, 0.75, margin=margin))
    assert bool(switches) is switched


def test_noise_never_takes_progress_back():
    states, switches = play([0.2, 0.8, 0.1, None, 0.3, 0.8], rules(0.25, 0.75))
    assert [s.progress for s in states] == [0.2, 0.8, 0.8, 0.8, 0.8, 0.8]
    assert [s.step for s in switches] == [2]


def test_a_step_without_validation_reassesses_nothing():
    states, _ = play([None] * 3, rules(0.0))
    assert all(s.reassessed == 0 for s in states)


@pytest.mark.parametrize(
    ("decide", "checkpoint_index"),
    [
        (schedules.fixed, 3),
        (schedules.equal_periods, 2),
        (partial(schedules.at_steps, steps=(10, 20, 30, 90)), 3),
        (partial(schedules.on_plateau, window=1000), 1),
    ],
    ids=["fixed", "equal_periods", "at_steps", "on_plateau"],
)
def test_the_new_teacher_enters_at_the_rung_of_the_schedule(decide, checkpoint_index):
    seen = Observation(50, 1.0, 0.8)
    moved = advance(ScheduleState("easy", 1), seen, checkpoints(), decide, rules(0.25, 0.75))
    state, switch = moved.state, moved.switch
    assert (state.teacher, state.checkpoint_index, state.losses) == ("strong", checkpoint_index, ())
    assert (switch.to_teacher, switch.to_checkpoint) == ("strong", checkpoint_index)


def test_a_shorter_ladder_is_entered_at_its_best_rung():
    turned = RankingWeights(
        factors={
            "easy": {"learnability": 0.0, "accuracy_above_chance": 1.0},
            "strong": {"learnability": 1.0, "accuracy_above_chance": 0.0},
        },
        early=EASY_EARLY.early,
        late=EASY_EARLY.late,
    )
    plateau = partial(schedules.on_plateau, window=1000)
    states, _ = play([0.8], rules(0.75), plateau, ScheduleState("strong", 3), turned)
    assert (states[-1].teacher, states[-1].checkpoint_index) == ("easy", 2)


def test_a_reassessment_needs_a_ranking():
    with pytest.raises(ValueError, match="needs the checkpoints' ranking"):
        play([0.9], rules(0.5), ranking=None)


@pytest.mark.parametrize(
    ("smoothing", "expected"),
    [
        ({}, [0.4, 0.4, 0.8]),
        ({"monotone": False}, [0.4, 0.2, 0.8]),
        ({"share": 0.5}, [0.2, 0.2, 0.5]),
        ({"share": 0.5, "monotone": False}, [0.2, 0.2, 0.5]),
        ({"share": 0.75, "monotone": False}, [0.1, 0.125, 0.29375]),
    ],
)
def test_progress_is_smoothed_and_monotone_as_asked(smoothing, expected):
    states, _ = play([0.4, 0.2, 0.8], rules(**smoothing))
    assert [s.progress for s in states] == pytest.approx(expected)


# Ranked anew, with probes

DEEP = TeacherCheckpoints({"easy": 3, "strong": 2}, max_steps=100, ranking=EASY_EARLY)


def ranked_at(step, probes, *, state=None, progress=0.5, **options):
    """What it asks, and where it goes with these figures: checkpoint → (moved, closed)."""
    state = state or ScheduleState("easy", 1)
    decide = partial(schedules.ranked, **{"interval": 10, **options})
    asked = advance(state, Observation(step, 1.0), DEEP, decide)
    if not isinstance(asked, MeasurementRequest):
        return None, asked
    figures = {c: {"moved": m, "closed": c_} for c, (m, c_) in probes.items()}
    assert figures.keys() == set(asked.checkpoints)
    seen = Observation(step, 1.0, progress, {"probes": figures})
    return asked, advance(state, seen, DEEP, decide)


PROBES = {("easy", 1): (1.0, 0.4), ("easy", 2): (1.0, 0.8), ("strong", 1): (0.25, 1.0)}


def test_candidates_are_the_one_that_serves_the_next_and_each_teacher_s_best():
    asked, _ = ranked_at(10, PROBES, probe_steps=5)
    assert asked == MeasurementRequest("probes", tuple(PROBES), {"steps": 5, "rows": 16})
    top = {("easy", 2): (1.0, 1.0), ("strong", 1): (1.0, 1.0)}
    asked, _ = ranked_at(10, top, state=ScheduleState("easy", 2))
    assert asked.checkpoints == tuple(top), "each once"


def test_scores_take_ease_from_the_probe_and_the_rest_from_the_teacher_as_far_as_it_had_come():
    scores = candidate_scores(
        {("a", 0): {"moved": 4.0, "closed": 0.2}, ("a", 1): {"moved": 1.0, "closed": 0.8}},
        RankingWeights(
            {"a": {"learnability": 0.3, "accuracy_above_chance": 0.6}},
            {"learnability": 1.0, "accuracy_above_chance": 0.0},
            EASY_EARLY.late,
        ),
        progress=0.25,
    )
    # Ease √(4/4) and √(1/4); of the teacher's peak of .6, a quarter and all.
    assert scores == pytest.approx({("a", 0): 0.75 + 0.25 * 0.15, ("a", 1): 0.375 + 0.25 * 0.6})


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.1, ("easy", 1)), (0.9, ("strong", 1))], ids=["early", "late"]
)
def test_the_teacher_or_nothing_changes_with_the_student_s_progress(progress, expected):
    _, moved = ranked_at(10, PROBES, progress=progress)
    assert moved.state.checkpoint == expected
    assert moved.state.progress == progress
    assert moved.state.memory == {"assessed": 10}
    assert set(moved.switch.numbers) == {
        "easy checkpoint 2", "easy checkpoint 3", "strong checkpoint 2",
    }  # fmt: skip


def test_the_checkpoint_alone_changes_where_the_next_one_hands_over_more():
    _, moved = ranked_at(10, {**PROBES, ("easy", 2): (4.0, 0.8)}, progress=0.1)
    assert moved.state.checkpoint == ("easy", 2)


@pytest.mark.parametrize(("margin", "checkpoint_index"), [(0.0, 2), (0.45, 2), (0.46, 1)])
def test_a_lead_below_the_margin_changes_nothing_but_is_told(margin, checkpoint_index):
    # At progress .1, ease counts .9: it is 1 for the next checkpoint and 1/2 for this one.
    probes = {**PROBES, ("easy", 2): (4.0, 0.8)}
    _, moved = ranked_at(10, probes, progress=0.1, margin=margin)
    assert moved.state.checkpoint_index == checkpoint_index
    assert moved.switch.changes is (checkpoint_index == 2)


def test_it_is_asked_every_so_many_steps_since_the_last_time():
    asked = []
    state = ScheduleState("easy", 1)
    for step in range(1, 31):
        found, moved = ranked_at(step, PROBES, state=state, progress=0.1)
        asked += [step] if found else []
        state = moved.state
    assert asked == [10, 20, 30]


@pytest.mark.parametrize(("every", "first"), [(0.25, 25), (0.001, 1)])
def test_an_interval_below_one_is_a_share_of_all_steps(every, first):
    asked = [s for s in range(1, 40) if ranked_at(s, PROBES, progress=0.1, interval=every)[0]]
    assert asked[0] == first


def test_nothing_is_measured_where_there_is_nothing_to_choose():
    state, alone = (
        ScheduleState("a", 1),
        TeacherCheckpoints({"a": 2}, max_steps=8, ranking=EASY_EARLY),
    )
    moved = advance(state, Observation(4, 1.0), alone, partial(schedules.ranked, interval=2))
    assert (moved.state.checkpoint, moved.switch) == (("a", 1), None)
    assert isinstance(
        advance(
            ScheduleState("a", 0), Observation(4, 1.0), alone, partial(schedules.ranked, interval=2)
        ),
        MeasurementRequest,
    )


def test_without_an_interval_it_is_asked_where_the_loss_is_flat_and_a_window_later_again():
    asked = []
    state = ScheduleState("easy", 1)
    for step in range(1, 13):
        found, moved = ranked_at(step, PROBES, state=state, progress=0.1, interval=None, window=3)
        asked += [step] if found else []
        state = moved.state
    assert asked == [6, 9, 12]


def test_nothing_is_ranked_without_a_ranking():
    with pytest.raises(ValueError, match="needs the checkpoints' ranking"):
        advance(
            ScheduleState("easy", 1), Observation(9, 1.0), checkpoints(None),
            partial(schedules.ranked, interval=1),
        )  # fmt: skip
