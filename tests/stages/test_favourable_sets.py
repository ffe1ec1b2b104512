"""Who knows which questions better, as the evaluation tells it."""

import numpy as np
import pytest

from distill_ray.core.intervals import Interval
from distill_ray.core.weighting import favourable_sets
from distill_ray.data.examples import Questions
from distill_ray.stages.evaluate import largest_gaps
from distill_ray.stages.reporting import tables
from distill_ray.stages.results.curve import ServedCheckpoint, SwitchEntry
from distill_ray.stages.results.final_scores import Comparison, GapQuestion

STUDENT = np.array([0.1, 2.0, 0.5, 3.0, 0.4, 0.2])
TEACHER = np.array([1.1, 0.5, 0.5, 0.1, 0.5, 5.2])
ASKED = Questions(
    name="chapter",
    row_ids=list("abcdef"),
    prompts=[[1]] * 6,
    options=[[2], [3]],
    labels=["no", "yes"],
    answer_index=[0, 1, 0, 1, 0, 1],
    groups=list("abcdef"),
)
TEXTS = {row_id: f"text {row_id}" for row_id in "abcdef"}


def test_the_two_leads_differ_by_the_risk_gap():
    sets = favourable_sets(STUDENT, TEACHER)
    assert (sets.student_share, sets.teacher_share) == (0.5, pytest.approx(1 / 3))
    assert sets.gain - sets.loss == pytest.approx(TEACHER.mean() - STUDENT.mean())


def test_the_questions_with_the_largest_lead_come_first_and_a_tie_is_nobodys():
    gaps = largest_gaps(ASKED, TEXTS, STUDENT, TEACHER)
    assert [row.row_id for row in gaps.student] == ["f", "a", "e"]
    assert [row.row_id for row in gaps.teacher] == ["d", "b"]
    assert gaps.teacher[0] == GapQuestion(
        row_id="d", text="text d", answer="yes", student=3.0, teacher=0.1
    )


def test_no_question_is_shown_for_a_side_that_is_behind_on_it():
    behind = largest_gaps(ASKED, TEXTS, TEACHER + 1.0, TEACHER)
    assert behind.student == []
    assert len(behind.teacher) == 3
    ahead = largest_gaps(ASKED, TEXTS, TEACHER - 0.01, TEACHER)
    assert ahead.teacher == []
    assert len(ahead.student) == 3
    # One question each, and the rest are ties.
    student = TEACHER + np.array([0, -1.0, 0, 0, 2.0, 0])
    one_each = largest_gaps(ASKED, TEXTS, student, TEACHER)
    assert [row.row_id for row in one_each.student] == ["b"]
    assert [row.row_id for row in one_each.teacher] == ["e"]


def test_the_report_says_who_is_ahead_and_by_how_much():
    row = Comparison(
        against="broad",
        set="chapter",
        accuracy=Interval(0.0, 0.0, 0.0),
        nll=Interval(0.0, 0.0, 0.0),
        accuracy_verdict="no difference shown",
        nll_verdict="no difference shown",
        favourable_sets=favourable_sets(STUDENT, TEACHER),
    )
    (cells,) = tables.favourable_sets([row]).rows
    assert cells == ["broad", "chapter", "50.0%", "33.3%", "1.017", "0.733", "+0.283"]
    table = tables.largest_gaps({"chapter": largest_gaps(ASKED, TEXTS, STUDENT, TEACHER)}, "broad")
    assert [row[1] for row in table.rows] == ["student"] * 3 + ["broad"] * 2


def test_an_assessment_without_a_change_is_in_the_list_of_switches():
    a = ServedCheckpoint(teacher="a", checkpoint=1)
    b = ServedCheckpoint(teacher="b", checkpoint=3)
    rows = [
        SwitchEntry(
            step=9, before=a, after=b, changes=True, reason="b leads", stall_s=0.0123,
            numbers={"a checkpoint 1": 0.4, "b checkpoint 3": 0.5},
        ),
        SwitchEntry(
            step=19, before=b, after=b, changes=False, reason="none leads it", stall_s=None,
            numbers={},
        ),
    ]  # fmt: skip
    assert tables.switches(rows).rows == [
        ["10", "a 1", "b 3", "b leads", "a checkpoint 1 0.400; b checkpoint 3 0.500", "12 ms"],
        ["20", "b 3", "no change", "none leads it", "", "–"],
    ]
