"""Trials → rows: what the arms of a domain reached, and of all domains together. S seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any
from zlib import crc32

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import PLAIN, ScheduleStudy
from distill_ray.core.calibration import nll_each, normalise, right_each
from distill_ray.core.resampling import Resamples
from distill_ray.data.examples import Questions
from distill_ray.stages.results.model_scores import ModelScores
from distill_ray.stages.results.trial import Trial
from distill_ray.stages.scoring.metrics import right_and_nll
from distill_ray.study.paired import FIGURES, Floats, PairedAnswers, against, against_teacher
from distill_ray.study.schedule.arms import CONTROL, Arm

Row = dict[str, Any]
BEST_STATIC, ORACLE = "best static", "oracle static"
"""The static choice that is best on the validation split, and the one that is best on the test
split, which nobody can know."""
STEPS = ((CONTROL, PLAIN), (PLAIN, "equal_periods"), ("equal_periods", "scd"), ("scd", "scd-aw"))
"""The published shape, each at most as good as the next: plain KD < ordered checkpoints <= SCD <
SCD with adaptive weights (arXiv 2601.10114), after what a teacher adds at all."""


@dataclass(frozen=True)
class Taught:
    """A domain's row, and the answers behind it."""

    row: Row
    tasks: list[PairedAnswers]


def compared(
    cfg: ScheduleStudy,
    domain: str,
    arms: Mapping[str, Arm],
    trials: Mapping[str, Mapping[int, Trial]],
    teachers: Mapping[str, ModelScores],
    questions: Sequence[Questions],
    best_teacher: str,
) -> Taught:
    """What a domain's trials and teachers show. Arms of which every seed ended are compared.

    Raises:
        InputError: the control is missing, or every static choice.
    """
    whole = {
        name: list(found.values())
        for name, found in trials.items()
        if len(found) == len(cfg.seeds) and all(t.artifact.is_complete() for t in found.values())
    }
    _require(arms, whole)
    outcomes = {name: [t.row() for t in found] for name, found in whole.items()}
    statics = [name for name in whole if arms[name].static is not None]
    best = max(statics, key=lambda n: _standing(outcomes[n]))
    tasks = [_answered(cfg, domain, q, whole, teachers, outcomes, best_teacher) for q in questions]
    right = {n: fmean(float(t.arms[n]["accuracy"].mean()) for t in tasks) for n in statics}
    oracle = max(statics, key=lambda n: right[n])
    for task in tasks:
        for role, name in ((BEST_STATIC, best), (ORACLE, oracle)):
            task.arms[role], task.last[role] = task.arms[name], task.last[name]
    row = {
        "most_accurate": best_teacher,
        "best_static": best,
        "oracle": oracle,
        "questions": {q.name: len(q.answer_index) for q in questions},
        "teachers": {
            name: {f: fmean(float(t.teachers[name][f].mean()) for t in tasks) for f in FIGURES}
            for name in teachers
        },
        "arms": {
            name: _arm(arms[name], whole[name], outcomes[name], tasks, questions) for name in whole
        },
        "failed": _failed(trials),
    }
    return Taught(row, tasks)


def _require(arms: Mapping[str, Arm], whole: Mapping[str, Any]) -> None:
    missing = [] if CONTROL in whole else ["the control"]
    if not any(arms[name].static for name in whole):
        missing.append("every static choice")
    if missing:
        what = f"{' and '.join(missing)} failed with some seed."
        fix = "Look at why, and try again with --retry-failed."
        raise InputError("the study can't compare:", [Problem("arms", what, fix)])


def _standing(outcomes: Sequence[Row]) -> tuple[float, float]:
    """On the validation split: accuracy, and the NLL where that is equal."""
    return _validation(outcomes, "accuracy"), -_validation(outcomes, "nll")


def _validation(outcomes: Sequence[Row], figure: str) -> float:
    return fmean(float(row[figure]) for row in outcomes)


def _answered(
    cfg: ScheduleStudy,
    domain: str,
    questions: Questions,
    whole: Mapping[str, Sequence[Trial]],
    teachers: Mapping[str, ModelScores],
    outcomes: Mapping[str, Sequence[Row]],
    best_teacher: str,
) -> PairedAnswers:
    name, gold = questions.name, np.asarray(questions.answer_index)
    # Drawn apart from every other task's.
    seed, how = crc32(f"{domain}/{name}".encode()), {"resamples": cfg.num_bootstrap}
    over = Resamples(questions.groups, confidence=cfg.confidence, seed=seed, **how)
    arms: dict[str, Mapping[str, Floats]] = {}
    for arm, trials in whole.items():
        p = [normalise(trial.answers("test")[name]) for trial in trials]
        arms[arm] = {
            "accuracy": np.stack([right_each(each, gold) for each in p]),
            "nll": np.stack([nll_each(each, gold) for each in p]),
        }
    scored = {t: dict(zip(FIGURES, right_and_nll(sheet, name))) for t, sheet in teachers.items()}
    last: dict[str, Sequence[str]] = {
        arm: [row["schedule"]["teacher"] for row in rows]
        for arm, rows in outcomes.items()
        if arm != CONTROL
    }
    # Without a teacher there is none that served; the strongest stands for it.
    last[CONTROL] = [best_teacher] * len(whole[CONTROL])
    return PairedAnswers(over, arms, scored, last, best_teacher)


def _arm(
    arm: Arm,
    trials: Sequence[Trial],
    outcomes: Sequence[Row],
    tasks: Sequence[PairedAnswers],
    questions: Sequence[Questions],
) -> Row:
    figures = {
        f: np.stack([task.arms[arm.name][f].mean(axis=1) for task in tasks]) for f in FIGURES
    }
    counts = [trial.artifact.manifest().counts for trial in trials]
    return {
        "settings": arm.settings(),
        "static": arm.static,
        "validation": {f: _validation(outcomes, f) for f in FIGURES},
        **{f: values.mean(axis=0).tolist() for f, values in figures.items()},
        "tasks": {
            q.name: {f: values[i].tolist() for f, values in figures.items()}
            for i, q in enumerate(questions)
        },
        "against": {
            **{other: against(tasks, arm.name, other) for other in (BEST_STATIC, CONTROL)},
            **{
                f"{w} teacher": against_teacher(tasks, arm.name, w)
                for w in ("last", "most_accurate")
            },
        },
        "served": [] if arm.teaching is None else [row["schedule"] for row in outcomes],
        "first": None if arm.teaching is None else arm.teaching.first_teacher,
        "steps": counts[0]["steps"],
        "probe_steps": fmean(probe_steps(arm, row, counts[0]["steps"]) for row in outcomes),
        "training_s": fmean(count["training_s"] for count in counts),
        "skipped_steps": sum(count["skipped_steps"] for count in counts),
    }


def probe_steps(arm: Arm, outcome: Row, steps: int) -> int:
    """Optimiser steps that assessments took beside the budget, which were undone.

    Args:
        arm: its schedule.
        outcome: of one trial.
        steps: of the budget.
    """
    if arm.teaching is None or "probe_steps" not in arm.teaching.options:
        return 0
    each = int(arm.teaching.options["probe_steps"])
    # An assessment's numbers are its candidates' scores.
    log = outcome["schedule"]["log"]
    return sum(len(entry["numbers"]) * min(each, steps - entry["step"]) for entry in log)


def _failed(trials: Mapping[str, Mapping[int, Trial]]) -> list[Row]:
    return [
        {"arm": name, "seed": seed, "reason": reason}
        for name, found in trials.items()
        for seed, trial in found.items()
        if (reason := trial.artifact.failure()) is not None and not trial.artifact.is_complete()
    ]


def overall_of(taught: Sequence[Taught]) -> Row:
    """Figures over all tasks of some domains, of the arms that all of them have."""
    tasks = [task for found in taught for task in found.tasks]
    rows = [found.row["arms"] for found in taught]
    shared = [n for n, row in rows[0].items() if not row["static"] and all(n in r for r in rows)]
    arms = {name: _overall(tasks, name) for name in (*shared, BEST_STATIC, ORACLE)}
    for name in shared:
        plain = [row.get(PLAIN, row[name])["training_s"] for row in rows]
        shares = [row[name]["training_s"] / base for row, base in zip(rows, plain)]
        arms[name]["training_share"] = fmean(shares)
        arms[name]["probe_share"] = fmean(r[name]["probe_steps"] / r[name]["steps"] for r in rows)
    steps = [
        {"from": a, "to": b, **against(tasks, b, a)} for a, b in STEPS if a in arms and b in arms
    ]
    return {"arms": arms, "steps": steps, "tasks": len(tasks)}


def _overall(tasks: Sequence[PairedAnswers], name: str) -> Row:
    return {
        **{f: fmean(float(task.arms[name][f].mean()) for task in tasks) for f in FIGURES},
        "against": {
            **{other: against(tasks, name, other) for other in (BEST_STATIC, CONTROL)},
            **{f"{w} teacher": against_teacher(tasks, name, w) for w in ("last", "most_accurate")},
        },
    }
