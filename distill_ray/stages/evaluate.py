"""Students, TeacherSet, ShardSet → Scores: was it worth it? Measured on the test split alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from distill_ray.core.intervals import verdict
from distill_ray.core.resampling import Resamples
from distill_ray.runtime.artifacts import Result
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet
from distill_ray.stages.audit import INITIAL, initial
from distill_ray.stages.distill import Students
from distill_ray.stages.metrics import right_and_nll, task_metrics
from distill_ray.stages.scoring import Sheet, Subject, sheets
from distill_ray.stages.shard import ShardSet, held_out_questions
from distill_ray.stages.sides import sides_of, widest

VERSION = 3
STUDENT, CONTROL = "student", "control"


@dataclass(frozen=True)
class Scores(Result):
    """Test figures of everyone, and the student's differences with their intervals."""

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """Model → `parameters`, `text`, `tasks` (shifted sets included), `divergence`."""
        return dict(self._data()["rows"])

    @property
    def comparisons(self) -> list[dict[str, Any]]:
        """The student against another model on a set: accuracy and NLL difference, verdicts, and
        the `sides` of their NLL."""
        return list(self._data()["comparisons"])

    @property
    def widest(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """Set → `student`, `teacher` → questions on which that side is farthest ahead."""
        return dict(self._data()["widest"])

    @property
    def teacher(self) -> str:
        """The teacher that taught last, or the most, to which KL is measured."""
        return str(self._data()["teacher"])

    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("scores.json"))


def evaluate(run: Run, shards: ShardSet, teachers: TeacherSet, students: Students) -> Scores:
    """Score the student, its initial state, the control and every teacher."""
    cfg = run.cfg.evaluate
    last = students.distilled.teacher
    subjects = _subjects(run, shards, teachers, students, last)
    made = sheets(run, shards, "evaluate", "test", subjects, cfg.text_rows)
    made.require(STUDENT, CONTROL, INITIAL)
    for name, reason in made.failed.items():
        run.note("evaluate", f"{name} is left out: {reason}")
    scored = made.sheets
    identity = {
        "version": VERSION,
        "evaluate": cfg,
        "bins": run.cfg.audit.bins,
        "teacher": last,
        "sheets": {name: sheet.artifact.fingerprint for name, sheet in scored.items()},
    }
    artifact = run.artifact("evaluate", "", identity)
    if not artifact.done():
        with artifact.building() as building:
            comparisons = [
                row for name in scored if name != STUDENT for row in _compare(run, scored, name)
            ]
            rows = {name: _row(run, sheet) for name, sheet in scored.items()}
            result = {"rows": rows, "comparisons": comparisons, "teacher": last}
            result["widest"] = _widest(shards, scored, last)
            building.write_json("scores.json", result)
            building.counts |= {"models": len(rows)}
    return Scores(artifact)


def _subjects(
    run: Run, shards: ShardSet, teachers: TeacherSet, students: Students, last: str
) -> list[Subject]:
    """KL to the last teacher's best checkpoint is measured for the three students."""
    teacher = teachers.teachers[last]
    best = teacher.serving

    def pupil(subject: Subject) -> Subject:
        return replace(subject, teacher=best.ref, teacher_fingerprint=best.fingerprint)

    made = {STUDENT: students.distilled, CONTROL: students.control}
    trained = [Subject(name, student.ref, student.fingerprint) for name, student in made.items()]
    pupils = [pupil(subject) for subject in (*trained, initial(teachers))]
    return pupils + [
        Subject(t.name, t.serving.ref, t.serving.fingerprint) for t in teachers.teachers.values()
    ]


def _row(run: Run, sheet: Sheet) -> dict[str, Any]:
    cfg = run.cfg.evaluate
    options = {"resamples": cfg.bootstrap, "confidence": cfg.confidence}
    return {
        "parameters": sheet.parameters,
        "text": sheet.text,
        "divergence": sheet.divergence,
        "tasks": {
            name: asdict(task_metrics(sheet, name, bins=run.cfg.audit.bins, **options))  # type: ignore[arg-type]
            for name in sheet.sets
        },
    }


def _compare(run: Run, scored: Mapping[str, Sheet], other: str) -> list[dict[str, Any]]:
    """The student minus another model, question by question."""
    cfg = run.cfg.evaluate
    rows = []
    for name in scored[STUDENT].sets:
        resamples = Resamples(
            scored[STUDENT].groups(name), resamples=cfg.bootstrap, confidence=cfg.confidence
        )
        mine, theirs = (right_and_nll(scored[who], name) for who in (STUDENT, other))
        accuracy, nll = (resamples.mean(a - b) for a, b in zip(mine, theirs))
        rows.append(
            {
                "against": other,
                "set": name,
                "accuracy": asdict(accuracy),
                "nll": asdict(nll),
                "accuracy_verdict": verdict(accuracy),
                "nll_verdict": verdict(nll, higher_is_better=False),
                "sides": sides_of(mine[1], theirs[1]),
            }
        )
    return rows


def _widest(shards: ShardSet, scored: Mapping[str, Sheet], teacher: str) -> dict[str, Any]:
    """Of every set, against the teacher that taught last."""
    if teacher not in scored:
        return {}
    table = shards.text("test").select(["row_id", "text"])
    texts = dict(zip(*(column.to_pylist() for column in table.columns)))
    return {
        asked.name: widest(
            asked,
            texts,
            *(right_and_nll(scored[who], asked.name)[1] for who in (STUDENT, teacher)),
        )
        for asked in held_out_questions(shards, "test")
        if asked.name in scored[STUDENT].sets
    }
