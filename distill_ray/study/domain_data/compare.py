"""Trials → rows: what text and teacher made of the students. S seeds, n questions.

Seeds are averaged first, questions are resampled in their groups: an interval says how much the
questions decide. How much the seeds do is seen where each seed's figure is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any
from zlib import crc32

import numpy as np

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.study import DomainDataStudy
from distill_ray.core.calibration import nll_each, normalise, right_each
from distill_ray.core.intervals import verdict
from distill_ray.core.resampling import Resamples
from distill_ray.data.examples import Questions
from distill_ray.stages.results.trial import Trial
from distill_ray.study.paired import FIGURES, Floats, interval_of

Row = dict[str, Any]
Figures = Mapping[str, Floats]
"""`accuracy` and `nll` → [S, n]."""
UNREAD = "fine-tuned only"
SHOWN = {"better": "shown", "worse": "contradicted"}
"""What a verdict makes of a claim; without one it is `not shown`."""


@dataclass(frozen=True)
class Way:
    """How a student comes to its fine-tune."""

    name: str
    arm: str | None = None
    """None doesn't read at all."""
    teacher: str | None = None
    """None reads without a teacher."""


def ways_of(cfg: DomainDataStudy) -> list[Way]:
    """Every arm from both teachers; and to compare with, the last arm's text without a teacher, and
    the fine-tune alone."""
    last = [*cfg.mixes][-1]
    taught = [Way(f"{t}-{arm}", arm, t) for t in (cfg.raw, cfg.adapted) for arm in cfg.mixes]
    return [*taught, Way(f"untaught-{last}", last), Way("unread")]


@dataclass(frozen=True)
class Contrast:
    """Some students' figure minus others'."""

    name: str
    weights: Mapping[str, float]
    """Way → its weight; they sum to 0."""
    claim: bool = False
    """Whether the papers say that it is above 0."""


def contrasts_of(cfg: DomainDataStudy) -> Iterator[Contrast]:
    """The claims, each over both teachers or all arms, then their parts."""
    teachers, arms = (cfg.raw, cfg.adapted), [*cfg.mixes]

    def less(plus: Sequence[str], minus: Sequence[str]) -> dict[str, float]:
        return {**{w: 1 / len(plus) for w in plus}, **{w: -1 / len(minus) for w in minus}}

    for before, after in pairwise(arms):
        both = [[f"{teacher}-{arm}" for teacher in teachers] for arm in (after, before)]
        yield Contrast(f"{after} over {before}", less(*both), claim=True)
    every = [[f"{teacher}-{arm}" for arm in arms] for teacher in reversed(teachers)]
    yield Contrast(f"{cfg.adapted} over {cfg.raw}", less(*every), claim=True)
    for teacher in teachers:
        for before, after in pairwise(arms):
            parts = less([f"{teacher}-{after}"], [f"{teacher}-{before}"])
            yield Contrast(f"{after} over {before}, {teacher} teacher", parts)
    for arm in arms:
        parts = less([f"{cfg.adapted}-{arm}"], [f"{cfg.raw}-{arm}"])
        yield Contrast(f"{cfg.adapted} over {cfg.raw}, on {arm}", parts)
    best = f"{cfg.adapted}-{arms[-1]}"
    yield Contrast(f"{best} over no teacher", less([best], [f"untaught-{arms[-1]}"]))
    yield Contrast(f"{best} over {UNREAD}", less([best], ["unread"]))


@dataclass(frozen=True)
class Answered:
    """Everyone's answers to a task's test questions."""

    over: Resamples
    ways: Mapping[str, Figures]

    def contrast(self, weights: Mapping[str, float], figure: str) -> Floats:
        """[S, n] the weighted sum of some ways' figure."""
        return np.asarray(sum(w * self.ways[name][figure] for name, w in weights.items()))


@dataclass(frozen=True)
class DomainResult:
    """A domain's row, and the answers behind it."""

    row: Row
    tasks: list[Answered]


def compared(
    cfg: DomainDataStudy,
    domain: str,
    readings: Mapping[str, Mapping[int, Trial]],
    tuned: Mapping[str, Mapping[int, Trial]],
    questions: Sequence[Questions],
) -> DomainResult:
    """What a domain's trials show. Ways of which every seed ended are compared.

    Args:
        cfg: the study.
        domain: its name.
        readings: way → seed → the trial that read; ways that read nothing are left out.
        tuned: way → seed → the trial that was fine-tuned.
        questions: of the test split, of every task.

    Raises:
        InputError: too few ended for a single claim.
    """
    whole = {
        way.name: [tuned[way.name][seed] for seed in cfg.seeds]
        for way in ways_of(cfg)
        if all(
            s in tuned[way.name] and tuned[way.name][s].artifact.is_complete() for s in cfg.seeds
        )
    }
    tasks = [_answered(cfg, domain, q, whole) for q in questions]
    found = contrasts(cfg, tasks)
    if not any(row["claim"] for row in found):
        what = f"{len(whole)} of {len(tuned)} ways to a student came to their end."
        fix = "Look at who failed, and try again with --retry-failed."
        raise InputError("the study can't compare:", [Problem("arms", what, fix)])
    students = {
        way.name: {
            "arm": way.arm,
            "teacher": way.teacher,
            **{
                f: np.mean([t.ways[way.name][f].mean(axis=1) for t in tasks], axis=0).tolist()
                for f in FIGURES
            },
            **_before(readings.get(way.name), whole[way.name], cfg.seeds),
        }
        for way in ways_of(cfg)
        if way.name in whole
    }
    row = {
        "students": students,
        "contrasts": found,
        "questions": {q.name: len(q.answer_index) for q in questions},
        "failed": [*_failed(readings), *_failed(tuned)],
    }
    return DomainResult(row, tasks)


def _before(
    readings: Mapping[int, Trial] | None, tuned: Sequence[Trial], seeds: Sequence[int]
) -> Row:
    """`before`: accuracy on the validation split before the fine-tune; `read` and `learned`: stream
    → rows and tokens of the two trainings."""
    rows = [trial.row() for trial in tuned]
    read = {} if readings is None else readings[seeds[0]].row()["streams"]
    before = [row["before"]["accuracy"] for row in rows]
    return {"before": before, "read": read, "learned": rows[0]["streams"]}


def _answered(
    cfg: DomainDataStudy, domain: str, questions: Questions, whole: Mapping[str, Sequence[Trial]]
) -> Answered:
    name, gold = questions.name, np.asarray(questions.answer_index)
    # Drawn apart from every other task's.
    seed, how = crc32(f"{domain}/{name}".encode()), {"resamples": cfg.num_bootstrap}
    over = Resamples(questions.groups, confidence=cfg.confidence, seed=seed, **how)
    ways: dict[str, Figures] = {}
    for way, trials in whole.items():
        p = [normalise(trial.answers("test")[name]) for trial in trials]
        ways[way] = {
            "accuracy": np.stack([right_each(each, gold) for each in p]),
            "nll": np.stack([nll_each(each, gold) for each in p]),
        }
    return Answered(over, ways)


def contrasts(cfg: DomainDataStudy, tasks: Sequence[Answered]) -> list[Row]:
    """Every contrast of which all ways are there: `name`, `claim`; `accuracy` and `nll`, each the
    mean over tasks with its interval, `verdict` and `seeds`; and for a claim, what is `said`."""
    found = []
    for contrast in contrasts_of(cfg):
        if not all(way in task.ways for task in tasks for way in contrast.weights):
            continue
        row: Row = {"name": contrast.name, "claim": contrast.claim}
        for figure in FIGURES:
            each = [task.contrast(contrast.weights, figure) for task in tasks]
            whole = interval_of([(t.over, v.mean(axis=0)) for t, v in zip(tasks, each)])
            row[figure] = {
                **asdict(whole),
                "verdict": verdict(whole, higher_is_better=figure == "accuracy"),
                "seeds": np.mean([v.mean(axis=1) for v in each], axis=0).tolist(),
            }
        if contrast.claim:
            row["said"] = SHOWN.get(row["accuracy"]["verdict"], "not shown")
        found.append(row)
    return found


def overall_of(cfg: DomainDataStudy, told: Sequence[DomainResult]) -> list[Row]:
    """Contrasts over all tasks of some domains, with `means`: on how many tasks the accuracy's is
    above 0; and `tasks`, how many there are."""
    tasks = [task for found in told for task in found.tasks]
    rows = contrasts(cfg, tasks)
    for row in rows:
        weights = next(c.weights for c in contrasts_of(cfg) if c.name == row["name"])
        means = [float(task.contrast(weights, "accuracy").mean()) for task in tasks]
        row |= {"means": sum(mean > 0 for mean in means), "tasks": len(tasks)}
    return rows


def _failed(trials: Mapping[str, Mapping[int, Trial]]) -> list[Row]:
    return [
        {"student": name, "seed": seed, "reason": reason}
        for name, found in trials.items()
        for seed, trial in found.items()
        if (reason := trial.artifact.failure()) is not None and not trial.artifact.is_complete()
    ]
