"""Students, TeacherSet, ShardSet → Scores: was it worth it? Measured on the test split alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from distill_ray.config.run import labelled_streams
from distill_ray.core.intervals import verdict
from distill_ray.core.resampling import Resamples
from distill_ray.core.weighting import favourable_sets
from distill_ray.data.examples import Questions
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import INITIAL, initial
from distill_ray.stages.results.final_scores import (
    CONTROL,
    SCORES,
    STUDENT,
    Comparison,
    FinalScores,
    GapQuestion,
    LargestGaps,
    Scores,
    TestedModel,
)
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.results.students import Students
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.scoring.metrics import right_and_nll, task_metrics
from distill_ray.stages.scoring.run import score_models

VERSION = 3
Floats = NDArray[np.float64]
NUM_GAPS = 3
"""Questions that are shown of each side."""


def evaluate(run: Run, shards: ShardSet, teachers: TeacherSet, students: Students) -> Scores:
    """Score the student, its initial state, the control and every teacher."""
    cfg = run.cfg.evaluate
    last = students.distilled.teacher
    # KL to the last teacher's best checkpoint is measured for the three students.
    best = teachers.teachers[last].serving
    models = [
        replace(model, teacher=best.ref, teacher_fingerprint=best.fingerprint)
        for model in (
            ModelToScore(STUDENT, students.distilled.ref, students.distilled.fingerprint),
            ModelToScore(CONTROL, students.control.ref, students.control.fingerprint),
            initial(teachers),
        )
    ]
    models += [
        ModelToScore(t.name, t.serving.ref, t.serving.fingerprint)
        for t in teachers.teachers.values()
    ]
    scoring = score_models(run, shards, "evaluate", "test", models, cfg.num_text_rows)
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
            rows = {name: _row(run, model) for name, model in scored.items()}
            FinalScores(
                rows=rows,
                comparisons=[
                    row for name in scored if name != STUDENT for row in _compare(run, scored, name)
                ],
                teacher=last,
                largest_gaps=_gaps_by_set(shards, scored, last),
            ).write(building, SCORES)
            building.counts |= {"models": len(rows)}
    return Scores(artifact)


def _row(run: Run, model: ModelScores) -> TestedModel:
    """A model's metrics on the test split."""
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


def _compare(run: Run, scored: Mapping[str, ModelScores], model: str) -> list[Comparison]:
    """The student minus another model, question by question."""
    cfg = run.cfg.evaluate
    rows = []
    for name in scored[STUDENT].sets:
        resamples = Resamples(
            scored[STUDENT].groups(name), resamples=cfg.num_bootstrap, confidence=cfg.confidence
        )
        student, compared = (right_and_nll(scored[each], name) for each in (STUDENT, model))
        accuracy, nll = (resamples.mean(a - b) for a, b in zip(student, compared))
        rows.append(
            Comparison(
                against=model,
                set=name,
                accuracy=accuracy,
                nll=nll,
                accuracy_verdict=verdict(accuracy),
                nll_verdict=verdict(nll, higher_is_better=False),
                favourable_sets=favourable_sets(student[1], compared[1]),
            )
        )
    return rows


def _gaps_by_set(
    shards: ShardSet, scored: Mapping[str, ModelScores], teacher: str
) -> dict[str, LargestGaps]:
    """Question set → the largest gaps to the teacher that taught last."""
    if teacher not in scored:
        return {}
    streams = [name for task in shards.cfg.tasks for name in labelled_streams(task)]
    table = shards.text("test", streams).select(["row_id", "text"])
    texts = dict(zip(*(column.to_pylist() for column in table.columns)))
    return {
        questions.name: largest_gaps(
            questions,
            texts,
            *(right_and_nll(scored[each], questions.name)[1] for each in (STUDENT, teacher)),
        )
        for questions in held_out_questions(shards, "test")
        if questions.name in scored[STUDENT].sets
    }


def largest_gaps(
    questions: Questions, texts: Mapping[str, str], student: Floats, teacher: Floats
) -> LargestGaps:
    """The questions on which each side leads by most.

    Args:
        questions: in the order of the losses.
        texts: row id → the text that a question is about.
        student: [n] NLL of the right option, nats.
        teacher: [n] the teacher's.
    """
    lead = teacher - student
    by_lead = np.argsort(-lead, kind="stable")

    def row(i: int) -> GapQuestion:
        return GapQuestion(
            row_id=questions.row_ids[i],
            text=texts[questions.row_ids[i]],
            answer=questions.labels[questions.answer_index[i]],
            student=float(student[i]),
            teacher=float(teacher[i]),
        )

    return LargestGaps(
        student=[row(int(i)) for i in by_lead[:NUM_GAPS] if lead[i] > 0],
        teacher=[row(int(i)) for i in by_lead[::-1][:NUM_GAPS] if lead[i] < 0],
    )
