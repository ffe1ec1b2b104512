"""What trials show, and what is left when some of them fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_results import Candidate, answers, probe_outcome, probed, run_of, trial

from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.results.probe_table import ProbeTable, TeacherEstimates
from distill_ray.stages.results.trial import (
    AnswerMetrics,
    CheckpointMetrics,
    FailedTrial,
    StudentMetrics,
    Trials,
    outcome,
)
from distill_ray.stages.trials.run import run_missing

TASK = {"organ": answers(8, 3, 0, right=0.5)}


def measured(nll: float, accuracy: float = 0.5, **terms: float) -> dict[str, Any]:
    validation = {name.replace("_", "."): value for name, value in terms.items()}
    task = AnswerMetrics(nll=nll, accuracy=accuracy)
    return {
        "validation": validation, "nll": nll, "accuracy": accuracy, "tasks": {"organ": task},
    }  # fmt: skip


def start(nll: float, accuracy: float = 0.5, **terms: float) -> StudentMetrics:
    return StudentMetrics(**measured(nll, accuracy, **terms))


def checkpoint(tokens: int, nll: float, accuracy: float = 0.5, **terms: float) -> CheckpointMetrics:
    return CheckpointMetrics(tokens=tokens, **measured(nll, accuracy, **terms))


BEFORE = start(2.0, 0.1, task_kl=4.0, text_kl=1.0, task_ce=3.0)
CHECKPOINTS = [
    checkpoint(500, 1.5, 0.4, task_kl=3.0, text_kl=1.5),
    checkpoint(1000, 0.5, 0.8, task_kl=1.0, text_kl=0.5),
]


def test_an_outcome_is_what_changed_until_the_last_checkpoint() -> None:
    found = outcome(BEFORE, CHECKPOINTS)
    assert found.kl_moved == 3.0, "nats on the answers, not on text"
    assert found.kl_removed == pytest.approx((0.75 + 0.5) / 2), "shares, the kinds alike"
    assert found.gain == 1.5
    assert (found.nll, found.accuracy) == (0.5, 0.8)
    assert found.tasks == {"organ": AnswerMetrics(nll=0.5, accuracy=0.8)} and found.before == BEFORE


def test_a_curve_has_the_outcome_at_every_checkpoint() -> None:
    first, last = outcome(BEFORE, CHECKPOINTS).curve
    figures = ("tokens", "kl_moved", "kl_removed", "gain", "accuracy")
    assert [getattr(first, f) for f in figures] == pytest.approx(
        [500, 1.0, (0.25 - 0.5) / 2, 0.5, 0.4]
    )
    assert [getattr(last, f) for f in figures] == pytest.approx([1000, 3.0, 0.625, 1.5, 0.8])
    assert last.validation["text.kl"] == 0.5, "with what the validation measured"


def test_where_no_answers_are_held_out_nats_on_text_count() -> None:
    found = outcome(start(2.0, text_kl=1.0), [checkpoint(1, 2.0, text_kl=0.25)])
    assert found.kl_moved == found.kl_removed == 0.75


def test_without_a_teacher_no_kl_is_moved() -> None:
    found = outcome(start(2.0, task_ce=3.0), [checkpoint(1, 1.0, task_ce=2.0)])
    assert found.kl_moved == found.kl_removed == 0.0
    assert found.gain == 1.0


def test_a_teacher_that_the_student_already_equals_has_no_share_to_remove() -> None:
    found = outcome(start(2.0, task_kl=0.0), [checkpoint(1, 2.0, task_kl=0.1)])
    assert found.kl_removed == 0.0 and found.kl_moved == pytest.approx(-0.1)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path, "a", "b")


def made_of(run: Run) -> Trials:
    """One that ended, one that failed, one that was not begun."""
    left = trial(run, "probe", "b", 1, "forgotten")
    left.artifact.forget_failure()
    return Trials(
        [
            trial(run, "probe", "a", 0, probe_outcome(1.0)),
            trial(run, "probe", "a", 1, "out of memory"),
            left,
        ]
    )


def test_trials_are_told_by_how_they_ended(run: Run) -> None:
    made = made_of(run)
    assert [(t.teacher, t.seed) for t in made.ended] == [("a", 0)]
    assert made.failed == [FailedTrial("a", 1, "out of memory")]
    assert made.seeds() == {"a": {0, 1}, "b": {1}}, "also those that did not end"
    assert made.fingerprints() == [made.trials[0].artifact.fingerprint]
    (result,) = made.results()
    assert result.model_dump() == {"teacher": "a", "seed": 0, **probe_outcome(1.0)}


class Notes:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_trials_that_ended_or_failed_are_not_run_again(run: Run) -> None:
    notes = Notes()
    quiet = Run(run.cfg, run.storage, notes)
    settled = made_of(run).trials[:2]
    made = run_missing(quiet, "probe", settled, [])
    assert made.trials == settled
    assert [(event.kind, event.stage) for event in notes.events] == [("reused", "probe")]


def test_the_control_is_no_trial_of_a_teacher(run: Run) -> None:
    made = probed(run, {"a": Candidate(TASK)}, control_logprobs={"organ": TASK["organ"].scores})
    assert made.control is not None and made.control_logprobs is not None
    assert set(made.seeds()) == {"a"} and {result.teacher for result in made.results()} == {"a"}
    assert made.control.artifact in made.artifacts, "but an artifact of the stage"
    assert made.control.artifact.fingerprint in made.fingerprints()
    assert made.control_logprobs["organ"] == TASK["organ"].scores.tolist()


def test_a_control_that_failed_leaves_nothing_and_fails_no_teacher(run: Run) -> None:
    made = probed(run, {"a": Candidate(TASK)}, control_logprobs=None)
    assert made.control_logprobs is None and made.failed == []
    assert len(made.artifacts) == 2 and ProbeTable().control_logprobs is None


def test_estimates_are_among_what_the_probes_left(run: Run) -> None:
    numbers = {"rsr": 2.0, "surprisal": 1.0, "gradient_norm": None, "grace": None}
    estimates = {"a": TeacherEstimates(**numbers, samples=3, tokens=9), "silent": None}
    made = probed(run, {"a": Candidate(TASK)}, estimates=estimates)
    assert made.estimates == estimates and ProbeTable().estimates == {}
    assert [a.kind for a in made.artifacts] == ["estimates", "probe", "probe"]
