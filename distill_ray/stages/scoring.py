"""Models scored on held-out questions and text, each in a Ray task of its own, each an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.core import calibration
from distill_ray.core.intervals import Interval, bootstrap, bootstrap_mean
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import data_spec
from distill_ray.stages.shard import ShardSet, held_out_questions

VERSION = 2


@dataclass(frozen=True)
class Sheet:
    """One model's answers: what every metric is computed from."""

    artifact: Artifact

    def scores(self, question_set: str) -> NDArray[np.float64]:
        """[n, K] log-likelihood of each option."""
        return np.asarray(self._data["options"][question_set], dtype=np.float64)

    def gold(self, question_set: str) -> NDArray[np.int64]:
        """[n] index of the right option."""
        return np.asarray(self._data["gold"][question_set], dtype=np.int64)

    def groups(self, question_set: str) -> list[str]:
        """[n] the group of each question."""
        return list(self._data["groups"][question_set])

    @property
    def sets(self) -> list[str]:
        """Question sets that have questions."""
        return [name for name, gold in self._data["gold"].items() if gold]

    @property
    def text(self) -> dict[str, float]:
        """Corpus → mean token NLL, nats."""
        return dict(self._data["text"])

    @property
    def divergence(self) -> dict[str, float]:
        """`text.kl`, `task.kl`: mean KL(teacher ‖ this model), if a teacher was given."""
        return dict(self._data["divergence"])

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return int(self._data["parameters"])

    @cached_property
    def _data(self) -> dict[str, Any]:
        return dict(self.artifact.read_json("sheet.json"))


@dataclass(frozen=True)
class Subject:
    """A model to be scored."""

    name: str
    ref: ModelRef
    fingerprint: str
    """Identity of its weights."""
    teacher: ModelRef | None = None
    """KL from this one is measured as well."""
    teacher_fingerprint: str = ""


def sheets(
    run: Run, shards: ShardSet, stage: str, split: str, subjects: Sequence[Subject], text_rows: int
) -> dict[str, Sheet]:
    """Score every subject that isn't scored yet; returns subject → its sheet."""
    artifacts = {s.name: _artifact(run, shards, stage, split, s, text_rows) for s in subjects}
    left = [s for s in subjects if not artifacts[s.name].done()]
    if not left:
        run.reused(stage)
    else:
        with run.stage(stage):
            run.ray()
            _score_all(run, shards, stage, split, left, artifacts, text_rows)
    return {name: Sheet(artifact) for name, artifact in artifacts.items()}


def _artifact(
    run: Run, shards: ShardSet, stage: str, split: str, subject: Subject, text_rows: int
) -> Artifact:
    identity = {
        "version": VERSION,
        "shard": shards.artifact.fingerprint,
        "model": subject.fingerprint,
        "teacher": subject.teacher_fingerprint,
        "split": split,
        "text_rows": text_rows,
        "max_examples": [task.max_examples for task in run.cfg.tasks],
    }
    return run.artifact(f"{stage}-sheets", subject.name, identity)


def _score_all(
    run: Run,
    shards: ShardSet,
    stage: str,
    split: str,
    subjects: Sequence[Subject],
    artifacts: Mapping[str, Artifact],
    text_rows: int,
) -> None:
    from distill_ray.stages.scoring_worker import score_in_parallel

    spec = {
        "questions": held_out_questions(shards, split),
        "shards": shards.artifact,
        "split": split,
        "data": data_spec(shards, run.cfg.seed, text_rows),
        "corpora": [corpus.name for corpus in run.cfg.corpora.sources],
    }
    jobs = [(subject, artifacts[subject.name]) for subject in subjects]
    for done, name in enumerate(score_in_parallel(run.cfg.cluster, jobs, spec), start=1):
        run.note(stage, f"scored {name}", done=done, total=len(jobs))


@dataclass(frozen=True)
class TaskMetrics:
    """A model's figures on one question set."""

    questions: int
    majority: float
    """Share of the most frequent answer: what a model without knowledge reaches."""
    accuracy: Interval
    nll: Interval
    """-log p(right option), normalised over the options, nats."""
    ece: Interval
    ece_floor: float
    """ECE of a perfectly calibrated model with these confidences and this many questions."""
    brier: Interval
    reliability: calibration.Reliability


def task_metrics(
    sheet: Sheet, question_set: str, *, bins: int, resamples: int, confidence: float
) -> TaskMetrics:
    """Accuracy, NLL, ECE and Brier score with bootstrap intervals over groups of questions."""
    gold, groups = sheet.gold(question_set), sheet.groups(question_set)
    p = calibration.normalise(sheet.scores(question_set))
    sure, correct = p.max(axis=1), (p.argmax(axis=1) == gold).astype(np.float64)
    options = {"resamples": resamples, "confidence": confidence}
    return TaskMetrics(
        questions=len(gold),
        majority=float(np.bincount(gold).max() / len(gold)),
        accuracy=bootstrap_mean(correct, groups, **options),  # type: ignore[arg-type]
        nll=bootstrap_mean(calibration.nll_each(p, gold), groups, **options),  # type: ignore[arg-type]
        ece=bootstrap(
            lambda index: calibration.ece(sure[index], correct[index], bins),
            groups,
            resamples=resamples,
            confidence=confidence,
            centre=True,  # Fewer distinct questions a bin make every resample's ECE larger.
        ),
        ece_floor=calibration.noise_floor(sure, bins),
        brier=bootstrap_mean(calibration.brier_each(p, gold), groups, **options),  # type: ignore[arg-type]
        reliability=calibration.reliability(sure, correct, bins),
    )
