"""The report's words: verdicts, who taught, and numbers as people read them."""

import pytest
from stage_results import audited_metrics

from distill_ray.core.intervals import Interval
from distill_ray.core.schedule import ScheduleState, Switch
from distill_ray.core.weighting import FavourableSets
from distill_ray.stages.reporting import selection, tables
from distill_ray.stages.reporting.text import (
    Table,
    above_majority,
    big,
    headline,
    number,
    points,
    seconds,
    segments,
    sentence,
    shares_read,
    signed,
    who_taught,
)
from distill_ray.stages.results.curve import StreamRead
from distill_ray.stages.results.final_scores import Comparison
from distill_ray.stages.results.probe_table import TeacherEstimates


def comparison(accuracy, nll="no difference shown", *, against="control", name="chapter"):
    values = {"better": (0.03, 0.01, 0.05), "worse": (-0.03, -0.05, -0.01)}
    return Comparison(
        against=against,
        set=name,
        accuracy=Interval(*values.get(accuracy, (0.01, -0.01, 0.03))),
        nll=Interval(-0.1, -0.2, 0.05),
        accuracy_verdict=accuracy,
        nll_verdict=nll,
        favourable_sets=FavourableSets(0.5, 0.5, 0.1, 0.1, 0.0),
    )


def test_a_sentence_names_the_difference_and_its_interval():
    assert sentence(comparison("better"), 0.95) == (
        "On chapter the student is better than the control: +3.0 points "
        "(95% interval +1.0 to +5.0); NLL −0.100 nats (−0.200 to +0.050), no difference shown."
    )
    assert "is worse than the teacher broad" in sentence(comparison("worse", against="broad"), 0.95)


def test_a_sentence_claims_nothing_that_is_not_shown():
    said = sentence(comparison("no difference shown"), 0.9)
    assert said.startswith("On chapter no difference in accuracy from the control is shown: +1.0")
    assert "90% interval −1.0 to +3.0" in said


def test_equal_answers_are_said_to_be_equal():
    row = comparison("no difference shown").model_copy(update={"accuracy": Interval(0.0, 0.0, 0.0)})
    assert "both are right on the same questions" in sentence(row, 0.95)


@pytest.mark.parametrize(
    ("rows", "start"),
    [
        ([comparison("better")], "The teacher was worth it: on chapter"),
        ([comparison("worse", "better")], "The teacher was not worth it: on chapter"),
        ([comparison("no difference shown")], "Not shown to be worth it"),
        ([comparison("no difference shown", "worse")], "Not shown to be worth it"),
        ([comparison("no difference shown", "better")], "Worth it for its probabilities, not"),
        ([comparison("better"), comparison("worse", name="other")], "Mixed"),
    ],
)
def test_the_headline_follows_the_comparison_with_the_control(rows, start):
    assert headline(rows).startswith(start)


def test_the_headline_names_nll_where_accuracy_shows_nothing():
    said = headline([comparison("no difference shown", "better")])
    assert "the student's NLL on chapter is better" in said
    mixed = [
        comparison("no difference shown", "better"),
        comparison("no difference shown", "worse", name="other"),
    ]
    assert "its NLL is better on chapter and worse on other" in headline(mixed)
    assert headline([comparison("no difference shown")]).endswith("without a teacher.")


def test_the_headline_names_tasks_without_a_difference():
    rows = [comparison("better"), comparison("no difference shown", name="other")]
    assert headline(rows).endswith("on other no difference is shown.")


def test_accuracy_at_the_majority_is_warned_of():
    row = audited_metrics(accuracy=Interval(0.14, 0.12, 0.16), majority=0.13)
    assert "not shown to be above 13.0%" in (above_majority("chapter", row) or "")
    assert above_majority("chapter", row.model_copy(update={"majority": 0.11})) is None


def switch(step, before, after, reason):
    return Switch(step, *before, *after, reason)


def test_turns_cover_every_step_once():
    switches = [switch(10, ("a", 0), ("a", 1), "stage 2"), switch(20, ("a", 1), ("b", 0), "best")]
    turns = segments(switches, ScheduleState("b", 0), 30)
    assert [(t.teacher, t.checkpoint_index, t.first, t.last) for t in turns] == [
        ("a", 0, 1, 10),
        ("a", 1, 11, 20),
        ("b", 0, 21, 30),
    ]
    assert who_taught(turns) == (
        "a taught first, then b from step 21 (best), 30 steps in all; the teacher or its "
        "checkpoint changed at steps 11 and 21."
    )


def test_a_switch_after_the_last_step_taught_nobody():
    turns = segments([switch(30, ("a", 0), ("b", 0), "late")], ScheduleState("b", 0), 30)
    assert [t.teacher for t in turns] == ["a"]
    assert who_taught(turns) == "a taught throughout, all 30 steps, with one checkpoint."


def test_numbers_are_rounded_and_signed_as_people_read_them():
    assert [number(-0.0004), number(None), number(float("nan"))] == ["0.000", "–", "–"]
    assert [signed(0.04, 1), signed(-0.04, 1), signed(2.0, 1)] == ["0.0", "0.0", "+2.0"]
    assert points(Interval(0.01, -0.02, 0.04)) == "+1.0 (−2.0 to +4.0)"
    assert [big(213312), big(1.26e6), big(12)] == ["213 k", "1.26 M", "12"]
    assert [seconds(3.14), seconds(398), seconds(7300)] == ["3.1 s", "6 min 38 s", "2 h 1 min"]


def test_columns_of_numbers_are_found():
    assert Table("t", ["a", "b"], [["x", "−1.0"], ["–", "+2"]]).numeric == [False, True]


def test_several_teachers_begin_together():
    state = ScheduleState("ensemble", 0)
    (only,) = segments([], state, 10)
    assert only.reason == "all begin"
    assert who_taught([only]) == "ensemble taught throughout, all 10 steps, with one checkpoint."


def test_what_a_student_read_is_told_in_shares_of_its_tokens():
    streams = {
        "notes": StreamRead(rows=10, tokens=700),
        "organ.labelled": StreamRead(rows=9, tokens=300),
    }
    assert shares_read(streams) == "70.0% notes, 30.0% organ.labelled"
    table = tables.read({"student": streams, "control": {"notes": StreamRead(rows=9, tokens=1000)}})
    assert [list(row) for row in table.rows] == [
        ["student", "notes", "10", "700", "70.0%"],
        ["student", "organ.labelled", "9", "300", "30.0%"],
        ["control", "notes", "9", "1 k", "100.0%"],
    ]


def test_a_missing_grace_is_explained_where_gradients_were_taken():
    def note(gradient_norm: float | None, grace: float | None) -> str:
        row = TeacherEstimates(
            rsr=2.0, surprisal=1.0, gradient_norm=gradient_norm, grace=grace, samples=4, tokens=40
        )
        return selection.estimates({"big": row, "silent": None}).note

    assert "a teacher that answered one has none" in note(3.0, None)
    assert note(None, None) == note(3.0, 0.5)
    assert "two prompts" not in note(3.0, 0.5)
