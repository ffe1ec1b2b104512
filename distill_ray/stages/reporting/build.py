"""The report's files from everything that the route left."""

from __future__ import annotations

from datetime import datetime, timezone

import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from distill_ray.runtime.artifacts import Artifact, Building
from distill_ray.runtime.manifest import versions
from distill_ray.stages.reporting import charts
from distill_ray.stages.reporting.content import Facts, origins, sections, verdict
from distill_ray.stages.reporting.export import write_student
from distill_ray.stages.reporting.lineage import Inputs, wall_by_stage
from distill_ray.stages.reporting.render import render
from distill_ray.stages.reporting.text import (
    interval,
    percent_interval,
    sentence,
    shares_read,
    who_taught,
)
from distill_ray.stages.reporting.training_chart import training
from distill_ray.stages.reporting.usage import usage
from distill_ray.stages.results.audit_table import INITIAL
from distill_ray.stages.results.final_scores import CONTROL, STUDENT
from distill_ray.stages.results.report_page import (
    REPORT,
    STUDENT_FOLDER,
    ReportData,
    ReportedComparison,
    ReportPaths,
    Taught,
    report_location,
)

Charts = dict[str, list[tuple[str, Markup]]]
"""Section → its figures, each with a title."""


def build_report(inputs: Inputs, artifact: Artifact, building: Building) -> None:
    """Write the page, its data, and the student's folder."""
    facts, cfg = Facts.of(inputs), inputs.run.cfg
    _data(facts, artifact).write(building, REPORT)
    student = report_location(artifact, STUDENT_FOLDER)
    context: dict[str, object] = {
        "title": cfg.report.title or cfg.name,
        "name": cfg.name,
        "headline": verdict(facts),
        "sections": sections(facts),
        "config": yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "fingerprint": artifact.fingerprint,
        "student": student,
        "usage": _usage(inputs, student),
    }
    building.storage.write_bytes("report.md", render("report.md.j2", context).encode())
    page = {**context, "charts": _charts(facts), "plotly": Markup(get_plotlyjs())}
    building.storage.write_bytes("report.html", render("report.html.j2", page).encode())
    students = {n: row for n, row in facts.scores.items() if n in (STUDENT, CONTROL, INITIAL)}
    job = inputs.students.distilled.training_job
    card = {
        **context,
        "usage": _usage(inputs, "."),
        "base": cfg.student.model.hub,
        "origins": list(origins(facts)),
        "taught": who_taught(facts.turns),
        "turns": facts.turns,
        "tokens": job.artifact.manifest().counts["tokens"],
        "length": cfg.corpora.sequence_length,
        "mix": shares_read(facts.student.streams),
        "distill": cfg.distill,
        "scored": [
            [name, model, percent_interval(r.accuracy), interval(r.nll), interval(r.ece)]
            for model, row in students.items()
            for name, r in row.tasks.items()
        ],
        "inputs": inputs.fingerprints(),
        "versions": versions(),
    }
    with building.storage.folder(STUDENT_FOLDER) as folder:
        write_student(inputs, render("model_card.md.j2", card), folder)
    building.counts |= {"verdict": verdict(facts)}


def _usage(inputs: Inputs, folder: str) -> str:
    """Code that asks the student a question of the first task."""
    task = inputs.run.cfg.tasks[0]
    tokenizer, answers = inputs.shards.tokenizer(), inputs.shards.counts.answers[task.name]
    return render("usage.py.j2", usage(task, answers, tokenizer, folder))


def _charts(facts: Facts) -> Charts:
    colour = charts.colours(facts.teachers)
    ranking, teachers = facts.inputs.ranking, facts.inputs.teachers.teachers
    audited = {n: row.sets for n, row in facts.audit.items() if n != INITIAL}
    tested = {n: facts.scores[n].tasks for n in (STUDENT, CONTROL, INITIAL)}
    best = {name: teacher.best for name, teacher in teachers.items()}
    figures = {
        "verdict": [
            (
                "Accuracy of the student minus the other's",
                charts.differences(facts.comparisons, colour),
            ),
        ],
        "ranking": [
            ("Score by phase, with intervals", charts.leaderboard(ranking.leaderboard, colour)),
            ("Factors", charts.factors(ranking.factors, colour)),
        ],
        "calibration": [
            ("Teachers, validation split", charts.reliability(audited, colour)),
            ("Student, control and initial state, test split", charts.reliability(tested, colour)),
        ],
        "probes": [("Probes", charts.probes(facts.inputs.probed.results(), colour))],
        "training": [
            (
                "Student and control",
                training(facts.student, facts.control, facts.turns, facts.switches, colour),
            )
        ],
        "scores": [
            (
                "Accuracy on the test split",
                charts.scores({n: row.tasks for n, row in facts.scores.items()}, colour),
            )
        ],
        "lineage": [("Time by stage", charts.times(wall_by_stage(facts.entries)))],
    }
    if facts.adaptation:
        chart = charts.adaptation(facts.adaptation, best, colour)
        figures["training"].append(("Teachers: validation loss at their checkpoints", chart))
    return {k: [(title, Markup(html)) for title, html in v] for k, v in figures.items()}


def _data(facts: Facts, artifact: Artifact) -> ReportData:
    """The report as data."""
    inputs, cfg = facts.inputs, facts.inputs.run.cfg
    return ReportData(
        title=cfg.report.title or cfg.name,
        verdict=verdict(facts),
        verdicts=[
            ReportedComparison(
                **dict(row),
                sentence=sentence(row, facts.confidence),
                task=row.set in facts.tasks,
            )
            for row in facts.comparisons
        ],
        taught=Taught(sentence=who_taught(facts.turns), turns=facts.turns),
        tokens=facts.tokens_by_teacher,
        switches=facts.switches,
        ranking=inputs.ranking.record,
        audit=facts.audit,
        # Options are the control's alone.
        probes=[probe.model_dump(exclude={"options"}) for probe in inputs.probed.results()],
        adaptation=facts.adaptation,
        scores=facts.scores,
        lineage=facts.entries,
        config=cfg.model_dump(mode="json"),
        versions=versions(),
        paths=ReportPaths(
            html=report_location(artifact, "report.html"),
            markdown=report_location(artifact, "report.md"),
            student=report_location(artifact, STUDENT_FOLDER),
        ),
    )
