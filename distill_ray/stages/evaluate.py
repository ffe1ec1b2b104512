"""Students, TeacherSet, ShardSet → Scores: was it worth it? Measured on the test split alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.core.intervals import verdict
from distill_ray.core.resampling import Resamples
from distill_ray.core.weighting import favourable_sets
from distill_ray.data.examples import Questions
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import INITIAL, initial
from distill_ray.stages.results.final_scores import CONTROL, STUDENT, Scores, TestedModel
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.results.students import Students
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.scoring.metrics import right_and_nll, task_metrics
from distill_ray.stages.scoring.run import score_models

VERSION = 3


def evaluate(run: Run, shards: ShardSet, teachers: TeacherSet, students: Students) -> Scores:
    """Score the student, its initial state, the control and every teacher."""
    cfg = run.cfg.evaluate
    last = students.distilled.teacher
    subjects = _subjects(run, shards, teachers, students, last)
    scoring = score_models(run, shards, "evaluate", "test", subjects, cfg.num_text_rows)
    scoring.require(STUDENT, CONTROL, INITIAL)
    for name, reason in scoring.failed.items():
        run.note("evaluate", f"{name} is left out: {reason}")
    scored = scoring.scores
    identity = {
        "version": VERSION,
        "evaluate": cfg,
        "bins": run.cfg.audit.num_bins,
        "teacher": last,
        "scores": {name: model.artifact.fingerprint for name, model in scored.items()},
    }
    artifact = run.artifact("evaluate", "", identity)
    if not artifact.is_complete():
        with artifact.building() as building:
            comparisons = [
                row for name in scored if name != STUDENT for row in _compare(run, scored, name)
            ]
            rows = {name: _row(run, model).model_dump() for name, model in scored.items()}
            result = {"rows": rows, "comparisons": comparisons, "teacher": last}
            result["widest"] = _widest(shards, scored, last)
            building.write_json("scores.json", result)
            building.counts |= {"models": len(rows)}
    return Scores(artifact)


def _subjects(
    run: Run, shards: ShardSet, teachers: TeacherSet, students: Students, last: str
) -> list[ModelToScore]:
    """KL to the last teacher's best checkpoint is measured for the three students."""
    teacher = teachers.teachers[last]
    best = teacher.serving

    def pupil(subject: ModelToScore) -> ModelToScore:
        return replace(subject, teacher=best.ref, teacher_fingerprint=best.fingerprint)

    models = {STUDENT: students.distilled, CONTROL: students.control}
    trained = [
        ModelToScore(name, student.ref, student.fingerprint) for name, student in models.items()
    ]
    pupils = [pupil(subject) for subject in (*trained, initial(teachers))]
    return pupils + [
        ModelToScore(t.name, t.serving.ref, t.serving.fingerprint)
        for t in teachers.teachers.values()
    ]


def _row(run: Run, model: ModelScores) -> TestedModel:
    cfg = run.cfg.evaluate
    return TestedModel(
        parameters=model.parameters,
        text=model.text,
        divergence=model.divergence,
        tasks={
            name: task_metrics(
                model,
                name,
                bins=run.cfg.audit.num_bins,
                resamples=cfg.num_bootstrap,
                confidence=cfg.confidence,
            )
            for name in model.sets
        },
    )


def _compare(run: Run, scored: Mapping[str, ModelScores], rival: str) -> list[dict[str, Any]]:
    """The student minus another model, question by question."""
    cfg = run.cfg.evaluate
    rows = []
    for name in scored[STUDENT].sets:
        resamples = Resamples(
            scored[STUDENT].groups(name), resamples=cfg.num_bootstrap, confidence=cfg.confidence
        )
        ours, rivals = (right_and_nll(scored[who], name) for who in (STUDENT, rival))
        accuracy, nll = (resamples.mean(a - b) for a, b in zip(ours, rivals))
        rows.append(
            {
                "against": rival,
                "set": name,
                "accuracy": asdict(accuracy),
                "nll": asdict(nll),
                "accuracy_verdict": verdict(accuracy),
                "nll_verdict": verdict(nll, higher_is_better=False),
                "sides": sides_of(ours[1], rivals[1]),
            }
        )
    return rows


def _widest(shards: ShardSet, scored: Mapping[str, ModelScores], teacher: str) -> dict[str, Any]:
    """Of every set, against the teacher that taught last."""
    if teacher not in scored:
        return {}
    table = shards.text("test").select(["row_id", "text"])
    texts = dict(zip(*(column.to_pylist() for column in table.columns)))
    return {
        questions.name: largest_gaps(
            questions,
            texts,
            *(right_and_nll(scored[who], questions.name)[1] for who in (STUDENT, teacher)),
        )
        for questions in held_out_questions(shards, "test")
        if questions.name in scored[STUDENT].sets
    }


Floats = NDArray[np.float64]


WIDEST = 3
"""Questions that are shown of each side."""


def sides_of(student: Floats, rival: Floats) -> dict[str, float]:
    """As `core.weighting.FavourableSets`.

    Args:
        student: [n] NLL of the right option, nats.
        rival: [n] the other model's.
    """
    return asdict(favourable_sets(student, rival))


def largest_gaps(
    questions: Questions, texts: Mapping[str, str], student: Floats, rival: Floats
) -> dict[str, list[dict[str, Any]]]:
    """The questions on which each side is farthest ahead: `student` and `teacher` → rows.

    Args:
        questions: the questions, in the order of the losses.
        texts: row id → what is asked about.
        student: [n] NLL of the right option, nats.
        rival: [n] the teacher's.

    Returns:
        Each row with `row_id`, `text`, `answer`, and the NLL of `student` and `teacher`.
    """
    apart = rival - student
    order = np.argsort(-apart, kind="stable")
    ahead = {"student": order[:WIDEST], "teacher": order[::-1][:WIDEST]}

    def rows(places: Sequence[int]) -> list[dict[str, Any]]:
        return [
            {
                "row_id": questions.row_ids[i],
                "text": texts[questions.row_ids[i]],
                "answer": questions.labels[questions.answer_index[i]],
                "student": float(student[i]),
                "teacher": float(rival[i]),
            }
            for i in places
        ]

    shown = {"student": [i for i in ahead["student"] if apart[i] > 0]}
    shown["teacher"] = [i for i in ahead["teacher"] if apart[i] < 0]
    return {side: rows([int(i) for i in places]) for side, places in shown.items()}
