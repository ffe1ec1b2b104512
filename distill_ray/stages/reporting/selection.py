"""The report's tables on how teachers were chosen: gains, audits, estimates, marks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill_ray.core.memory import GIB
from distill_ray.stages.reporting.text import (
    Table,
    difference,
    interval,
    number,
    percent,
    percent_interval,
    points,
)
from distill_ray.stages.results.adaptation_gain import AdaptationGain
from distill_ray.stages.results.audit_table import AuditedModel
from distill_ray.stages.results.probe_table import TeacherEstimates
from distill_ray.stages.results.question_metrics import AuditedMetrics
from distill_ray.stages.results.ranking import Ranking
from distill_ray.stages.results.trial import FailedTrial


def gains(gains_by_teacher: Mapping[str, AdaptationGain]) -> Table:
    """What adaptation did for each teacher, on held-out questions."""
    columns = ["Teacher", "Accuracy, points", "NLL, nats", "NLL of text, raw → adapted", "Serves"]
    rows = [
        [
            name,
            points(row.accuracy),
            difference(row.nll),
            "; ".join(f"{c}: {number(a)} → {number(b)}" for c, (a, b) in row.text.items()),
            "adapted" if row.adapted_is_better else "raw: no gain shown",
        ]
        for name, row in gains_by_teacher.items()
    ]
    note = "Adapted minus raw, question by question, on the validation split."
    return Table("What adaptation gained", columns, rows, note)


def excluded_teachers(ranking: Ranking, failed: Sequence[FailedTrial]) -> list[str]:
    """Sentences on who can't serve, who isn't ranked and which probes failed."""
    lines = [f"{n} can't serve: {'; '.join(why)}." for n, why in ranking.ineligible.items()]
    if ranking.ineligible and len(ranking.ineligible) == len(ranking.factors):
        lines.append("No teacher is without a mark, so the marks are passed over.")
    lines += [f"{n} is not ranked. {why}." for n, why in ranking.failed.items()]
    return lines + [
        f"The probe of {trial.teacher} with seed {trial.seed} failed: {trial.reason}."
        for trial in failed
        if trial.teacher not in ranking.failed
    ]


def answers(table: Mapping[str, AuditedModel]) -> Table:
    """How models answer: by likelihood in three forms, and freely."""
    columns = ["Set", "Model", "Likeliest", "per token", "against prior", "Exact match", "Valid"]
    rows = [
        [
            name,
            model,
            percent_interval(row.accuracy),
            percent_interval(row.accuracy_by_length),
            percent_interval(row.accuracy_by_prior),
            _or_dash(row.exact_match, percent_interval),
            _or_dash(row.valid, percent_interval),
        ]
        for name, model, row in _by_set(table)
    ]
    note = (
        "Accuracy of the likeliest option; of the one likeliest per token; of the one that the "
        "question makes likelier the most (PMI). Greedy answers to the first questions of each "
        "set: the right one token for token, and any of the options (output format)."
    )
    return Table("Audit: answers", columns, rows, note)


def calibrations(table: Mapping[str, AuditedModel]) -> Table:
    """How far confidence can be believed, in every form."""
    columns = ["Set", "Model", "ECE", "floor", "adaptive", "floor", "classwise", "floor", "AUROC"]
    columns += ["T", "ECE at T", "NLL at T"]
    rows = [
        [
            name,
            model,
            interval(row.ece),
            number(row.ece_floor),
            interval(row.adaptive_ece),
            number(row.adaptive_ece_floor),
            number(row.classwise_ece.value),
            number(row.classwise_ece_floor),
            _or_dash(row.auroc, interval),
            number(table[model].temperature, 2),
            _or_dash(row.scaled, lambda scaled: interval(scaled.ece)),
            _or_dash(row.scaled, lambda scaled: number(scaled.nll.value)),
        ]
        for name, model, row in _by_set(table)
    ]
    note = (
        "Floors are what a perfectly calibrated model would show. AUROC: that a right answer is "
        "surer than a wrong one. T is fitted on the tasks' questions; figures at T are "
        "cross-fitted over groups."
    )
    return Table("Audit: calibration", columns, rows, note)


def shifts(table: Mapping[str, AuditedModel]) -> Table:
    """What models lose on shifted sets and on generic text."""
    columns = ["Set", "Model", "Accuracy lost, points", "NLL gained, nats"]
    rows = [
        [name, model, points(row.drops[name].accuracy), interval(row.drops[name].nll)]
        for name in dict.fromkeys(name for row in table.values() for name in row.drops)
        for model, row in table.items()
        if name in row.drops
    ]
    note = "The task minus its shifted set; the two sets' groups are resampled independently."
    return Table("Audit: behaviour under shift", columns, rows, note)


def capacities(table: Mapping[str, AuditedModel]) -> Table:
    """What serving a model takes, against the student."""
    columns = ["Model", "× student", "Weights, MiB", "Forward, µs per token", "Context"]
    columns += ["Vocabulary fit", "Chat template", "Full-ECE"]
    rows = [
        [
            model,
            number(row.size_ratio, 2),
            number(row.capacity.bytes / (GIB / 1024), 1),
            number(1e6 * (row.capacity.seconds_per_token or float("nan")), 1),
            str(row.capacity.context or "–"),
            percent(row.vocabulary_fit, 0),
            {None: "–", True: "yes", False: "no"}[row.chat_template],
            "; ".join(f"{n}: {number(v, 4)}" for n, v in row.full_ece.items()),
        ]
        for model, row in table.items()
    ]
    note = "Full-ECE: token-level calibration error over the whole vocabulary (arXiv 2406.11345)."
    return Table("Audit: capacity gap", columns, rows, note)


def estimates(by_teacher: Mapping[str, TeacherEstimates | None]) -> Table:
    """What the initial student makes of each teacher's answers."""
    columns = ["Teacher", "RSR", "Surprisal, nats", "GRACE", "Gradient norm", "Answers"]
    known = {name: row for name, row in by_teacher.items() if row is not None}
    rows = [
        [
            name,
            *map(number, (row.rsr, row.surprisal, row.grace, row.gradient_norm)),
            str(row.samples),
        ]
        for name, row in known.items()
    ]
    note = "Of each, lower is said to suit the student better; `study ranking` tests that."
    if any(row.grace is None and row.gradient_norm is not None for row in known.values()):
        note += " GRACE needs answers to two prompts: a teacher that answered one has none."
    return Table("Estimates without training", columns, rows, note)


def _by_set(table: Mapping[str, AuditedModel]) -> list[tuple[str, str, AuditedMetrics]]:
    """Set, model and its metrics; tasks and shifted sets, each with all models."""
    sets = {model: row.sets for model, row in table.items()}
    names = dict.fromkeys(name for row in sets.values() for name in row)
    return [(n, m, sets[m][n]) for n in names for m in table if n in sets[m]]


def _or_dash(value: Any, form: Callable[[Any], str]) -> str:
    return "–" if value is None else form(value)
