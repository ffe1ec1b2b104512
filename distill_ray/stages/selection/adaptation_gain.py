"""Was the adaptation worth it? Each trained teacher against what it was, on held-out questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from distill_ray.core.intervals import Interval
from distill_ray.core.resampling import Resamples
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import initial
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet
from distill_ray.stages.scoring.metrics import right_and_nll
from distill_ray.stages.scoring.run import score_models

VERSION = 1


@dataclass(frozen=True)
class AdaptationGain:
    """Adapted minus raw, question by question, over all tasks."""

    accuracy: Interval
    nll: Interval
    """-log p(right option), normalised over the options, in nats: below 0 is better."""
    text: dict[str, list[float]]
    """Corpus → token NLL raw and adapted, nats."""
    gained: bool
    """Whether the NLL's interval lies below 0."""


def keep_if_improved(run: Run, shards: ShardSet, teachers: TeacherSet) -> TeacherSet:
    """The teachers, each with its gain; one without a gain serves as it came.

    A teacher whose weights can't be scored is left out, and named in `failed`.
    """
    trained = {n: t for n, t in teachers.teachers.items() if t.is_trained}
    subjects = [subject for t in teachers.teachers.values() for subject in _subjects(t)]
    # The student goes along, for the audit: actors take longer to start than to score it.
    subjects.append(initial(teachers))
    scored = score_models(run, shards, "audit", "validation", subjects, run.cfg.audit.num_text_rows)
    failed = {n: scored.failed[n] for n in teachers.teachers if n in scored.failed}
    found = {n: (scored.scores.get(_raw(n)), scored.scores.get(n)) for n in trained}
    pairs = {n: (raw, adapted) for n, (raw, adapted) in found.items() if raw and adapted}
    for name in trained:
        if name not in failed and name not in pairs:
            reason = scored.failed[_raw(name)]
            run.note("adapt", f"{name} serves unproven, what it was can't be scored: {reason}")
    artifact = run.artifact("gain", "", _identity(run, pairs))
    if not artifact.is_complete():
        with artifact.building() as building:
            gains = {name: asdict(_gain(run, *pair)) for name, pair in pairs.items()}
            building.write_json("gain.json", gains)
            building.counts |= {name: gain["gained"] for name, gain in gains.items()}
    gains = artifact.read_json("gain.json")
    alive = {
        name: replace(teacher, gained=gains.get(name, {"gained": True})["gained"])
        for name, teacher in teachers.teachers.items()
        if name not in failed
    }
    artifacts = [*teachers.artifacts, artifact]
    return replace(teachers, teachers=alive, gains=gains, failed=failed, artifacts=artifacts)


def _raw(name: str) -> str:
    return f"{name} as it came"


def _subjects(teacher: Teacher) -> list[ModelToScore]:
    """What it was, and what it has become; the same for one that wasn't trained."""
    raw, adapted = teacher.raw, teacher.adapted
    both = [ModelToScore(teacher.name, adapted.ref, adapted.fingerprint)]
    return both + [ModelToScore(_raw(teacher.name), raw.ref, raw.fingerprint)] * teacher.is_trained


def _identity(run: Run, pairs: Mapping[str, tuple[ModelScores, ModelScores]]) -> dict[str, Any]:
    cfg = run.cfg.audit
    return {
        "version": VERSION,
        "bootstrap": [cfg.num_bootstrap, cfg.confidence],
        "scores": {n: [s.artifact.fingerprint for s in pair] for n, pair in pairs.items()},
    }


def _gain(run: Run, raw: ModelScores, adapted: ModelScores) -> AdaptationGain:
    """Questions of one group are resampled together; tasks count by their questions."""
    tasks = [task.name for task in run.cfg.tasks if task.name in adapted.sets]
    groups = [f"{task}/{group}" for task in tasks for group in adapted.groups(task)]
    before, after = (
        np.hstack([right_and_nll(sheet, task) for task in tasks]) for sheet in (raw, adapted)
    )
    cfg = run.cfg.audit
    resamples = Resamples(groups, resamples=cfg.num_bootstrap, confidence=cfg.confidence)
    accuracy, nll = (resamples.mean(d) for d in after - before)
    text = {corpus: [raw.text[corpus], found] for corpus, found in adapted.text.items()}
    return AdaptationGain(accuracy, nll, text, gained=nll.high < 0)
