"""Who knows which questions better, as the evaluation tells it."""

import numpy as np
import pytest

from distill_ray.data.examples import Questions
from distill_ray.stages.evaluate import largest_gaps as farthest
from distill_ray.stages.evaluate import sides_of
from distill_ray.stages.reporting.tables import sides, switches, widest

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
    found = sides_of(STUDENT, TEACHER)
    assert (found["student_share"], found["teacher_share"]) == (0.5, pytest.approx(1 / 3))
    assert found["gain"] - found["loss"] == pytest.approx(TEACHER.mean() - STUDENT.mean())


def test_the_questions_with_the_largest_lead_come_first_and_a_tie_is_nobodys():
    found = farthest(ASKED, TEXTS, STUDENT, TEACHER)
    assert [row["row_id"] for row in found["student"]] == ["f", "a", "e"]
    assert [row["row_id"] for row in found["teacher"]] == ["d", "b"]
    expected = {"row_id": "d", "text": "text d", "answer": "yes", "student": 3.0, "teacher": 0.1}
    assert found["teacher"][0] == expected


def test_no_question_is_shown_for_a_side_that_is_behind_on_it():
    behind = farthest(ASKED, TEXTS, TEACHER + 1.0, TEACHER)
    assert behind["student"] == []
    assert len(behind["teacher"]) == 3
    ahead = farthest(ASKED, TEXTS, TEACHER - 0.01, TEACHER)
    assert ahead["teacher"] == []
    assert len(ahead["student"]) == 3
    # One question each, and the rest are ties.
    student = TEACHER + np.array([0, -1.0, 0, 0, 2.0, 0])
    one_each = farthest(ASKED, TEXTS, student, TEACHER)
    assert {side: [row["row_id"] for row in rows] for side, rows in one_each.items()} == {
        "student": ["b"],
        "teacher": ["e"],
    }


def test_the_report_says_who_is_ahead_and_by_how_much():
    row = {"against": "broad", "set": "chapter", "sides": sides_of(STUDENT, TEACHER)}
    (cells,) = sides([row]).rows
    assert cells == ["broad", "chapter", "50.0%", "33.3%", "1.017", "0.733", "+0.283"]
    table = widest({"chapter": farthest(ASKED, TEXTS, STUDENT, TEACHER)}, "broad")
    assert [row[1] for row in table.rows] == ["student"] * 3 + ["broad"] * 2


def test_an_assessment_without_a_change_is_in_the_list_of_switches():
    at, to = {"teacher": "a", "checkpoint": 1}, {"teacher": "b", "checkpoint": 3}
    rows = [
        {"step": 9, "from": at, "to": to, "changes": True, "reason": "b leads", "stall_s": 0.0123,
         "numbers": {"a checkpoint 1": 0.4, "b checkpoint 3": 0.5}},
        {"step": 19, "from": to, "to": to, "changes": False, "reason": "none leads it",
         "numbers": {}, "stall_s": None},
    ]  # fmt: skip
    assert switches(rows).rows == [
        ["10", "a 1", "b 3", "b leads", "a checkpoint 1 0.400; b checkpoint 3 0.500", "12 ms"],
        ["20", "b 3", "no change", "none leads it", "", "–"],
    ]
