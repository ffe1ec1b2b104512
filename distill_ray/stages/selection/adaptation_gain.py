"""Whether adaptation helps: each trained teacher against its base model, on held-out questions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from distill_ray.core.resampling import Resamples
from distill_ray.runtime.run import Run
from distill_ray.stages.results.adaptation_gain import (
    ADAPTATION_GAIN,
    AdaptationGain,
    AdaptationGains,
)
from distill_ray.stages.results.audit_table import initial
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import TeacherSet
from distill_ray.stages.scoring.metrics import right_and_nll
from distill_ray.stages.scoring.run import score_models

VERSION = 1


def keep_if_improved(run: Run, shards: ShardSet, teachers: TeacherSet) -> TeacherSet:
    """The teachers, each with its gain; one without a gain serves as its base model.

    A teacher whose weights can't be scored is dropped, and named in `failed`.
    """
    cfg = run.cfg.audit
    trained = {n: t for n, t in teachers.teachers.items() if t.is_trained}
    models = []
    for name, teacher in teachers.teachers.items():
        adapted, base = teacher.adapted, teacher.base_model
        models.append(ModelToScore(name, adapted.ref, adapted.fingerprint))
        if name in trained:
            models.append(ModelToScore(_base(name), base.ref, base.fingerprint))
    # The student is scored along with them for the audit: actors take longer to start than to
    # score it.
    models.append(initial(teachers))
    scored = score_models(run, shards, "audit", "validation", models, cfg.num_text_rows)
    failed = {n: scored.failed[n] for n in teachers.teachers if n in scored.failed}
    pairs = {
        name: (scored.scores[_base(name)], scored.scores[name])
        for name in trained
        if _base(name) in scored.scores and name in scored.scores
    }
    for name in trained:
        if name not in failed and name not in pairs:
            reason = scored.failed[_base(name)]
            text = f"{name} serves adapted, unproven: its base model can't be scored: {reason}"
            run.note("adapt", text)
    identity = {
        "version": VERSION,
        "bootstrap": [cfg.num_bootstrap, cfg.confidence],
        "scores": {n: [s.artifact.fingerprint for s in pair] for n, pair in pairs.items()},
    }
    artifact = run.artifact("adaptation-gain", "", identity)
    if not artifact.is_complete():
        with artifact.building() as building:
            computed = {name: _gain(run, *pair) for name, pair in pairs.items()}
            AdaptationGains(teachers=computed).write(building, ADAPTATION_GAIN)
            building.counts |= {name: gain.adapted_is_better for name, gain in computed.items()}
    gains = AdaptationGains.read(artifact, ADAPTATION_GAIN).teachers
    scorable = {
        name: replace(
            teacher, adapted_is_better=gains[name].adapted_is_better if name in gains else True
        )
        for name, teacher in teachers.teachers.items()
        if name not in failed
    }
    artifacts = [*teachers.artifacts, artifact]
    return replace(teachers, teachers=scorable, gains=gains, failed=failed, artifacts=artifacts)


def _base(name: str) -> str:
    """What the base model of a teacher is called among the models to score."""
    return f"{name}, base model"


def _gain(run: Run, base: ModelScores, adapted: ModelScores) -> AdaptationGain:
    """Compare them: groups of questions are resampled, and each question counts alike."""
    tasks = [task.name for task in run.cfg.tasks if task.name in adapted.sets]
    groups = [f"{task}/{group}" for task in tasks for group in adapted.groups(task)]
    before, after = (
        np.hstack([right_and_nll(model, task) for task in tasks]) for model in (base, adapted)
    )
    cfg = run.cfg.audit
    resamples = Resamples(groups, resamples=cfg.num_bootstrap, confidence=cfg.confidence)
    accuracy, nll = (resamples.mean(difference) for difference in after - before)
    return AdaptationGain(
        accuracy=accuracy,
        nll=nll,
        text={corpus: (base.text[corpus], value) for corpus, value in adapted.text.items()},
        adapted_is_better=nll.high < 0,
    )
