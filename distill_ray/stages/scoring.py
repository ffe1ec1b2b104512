"""Models scored on held-out questions and text by a pool of actors, each sheet an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distill_ray.data.examples import up_to
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.desk import Desk
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet, held_out_questions
from distill_ray.stages.sheet_parts import Scoring, parts_of, whole

VERSION = 3


@dataclass(frozen=True)
class Sheet:
    """One model's answers: what every metric is computed from. n questions, K options."""

    artifact: Artifact

    def scores(self, question_set: str) -> NDArray[np.float64]:
        """[n, K] log-likelihood of each option."""
        return np.asarray(self._data["options"][question_set], dtype=np.float64)

    def lengths(self, question_set: str) -> NDArray[np.int64]:
        """[K] tokens of each option."""
        return np.asarray(self._data["lengths"][question_set], dtype=np.int64)

    def prior(self, question_set: str) -> NDArray[np.float64]:
        """[K] log-likelihood of each option after the prompt without a text."""
        return np.asarray(self._data["prior"][question_set], dtype=np.float64)

    def gold(self, question_set: str) -> NDArray[np.int64]:
        """[n] index of the right option."""
        return np.asarray(self._data["gold"][question_set], dtype=np.int64)

    def groups(self, question_set: str) -> list[str]:
        """[n] the group of each question."""
        return list(self._data["groups"][question_set])

    def generated(self, question_set: str) -> list[list[int]]:
        """Token ids of the model's own answers to the first questions, with the end if it came."""
        return [list(ids) for ids in self._data["generated"][question_set]]

    def written(self, question_set: str) -> NDArray[np.int64]:
        """Which option each generated answer is, -1 where it is none of them or never ended."""
        options, end = self._data["answers"][question_set], self._data["end"][question_set]
        places = {tuple(option): k for k, option in enumerate(options)}
        found = [
            places.get(tuple(up_to(ids, end)), -1) if end in ids else -1
            for ids in self.generated(question_set)
        ]
        return np.asarray(found, dtype=np.int64)

    @property
    def sets(self) -> list[str]:
        """Question sets that have questions."""
        return [name for name, gold in self._data["gold"].items() if gold]

    @property
    def text(self) -> dict[str, float]:
        """Corpus → mean token NLL, nats."""
        return dict(self._data["text"])

    def row_losses(self, stream: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum of token NLL of each packed row, and its supervised tokens; rows as in any sheet."""
        rows = self._data["rows"][stream]
        return np.asarray(rows["nll"], dtype=np.float64), np.asarray(rows["tokens"], np.float64)

    @property
    def full_ece(self) -> dict[str, float]:
        """Stream → token-level calibration error over the whole vocabulary."""
        return dict(self._data["full_ece"])

    @property
    def divergence(self) -> dict[str, float]:
        """`text.kl`, `task.kl`: mean KL(teacher ‖ this model), if a teacher was given."""
        return dict(self._data["divergence"])

    @property
    def parameters(self) -> int:
        """Parameters of the model."""
        return int(self._data["parameters"])

    @property
    def capacity(self) -> dict[str, Any]:
        """`bytes`, `context`, `seconds_per_token` of a forward pass, `peak_bytes` on a device."""
        names = ("bytes", "context", "seconds_per_token", "peak_bytes")
        return {name: self._data[name] for name in names}

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


@dataclass(frozen=True)
class Scored:
    """What came of scoring some subjects."""

    sheets: dict[str, Sheet]
    """Subject → its sheet; subjects of equal weights share one."""
    failed: dict[str, str]
    """Subject that couldn't be scored → why, in a line."""

    def require(self, *names: str) -> None:
        """Insist on some subjects.

        Raises:
            RuntimeError: one of them couldn't be scored.
        """
        for name in names:
            if name in self.failed:
                raise RuntimeError(f"{name} can't be scored: {self.failed[name]}")


def sheets(
    run: Run, shards: ShardSet, stage: str, split: str, subjects: Sequence[Subject], text_rows: int
) -> Scored:
    """Score every subject that isn't scored yet; one that fails is left out, with the reason.

    A failure is recorded, and not tried again unless the run says so.
    """
    artifacts = {s.name: _artifact(run, shards, stage, split, s, text_rows) for s in subjects}
    left: dict[str, tuple[Subject, Artifact]] = {}
    for subject in subjects:
        artifact = artifacts[subject.name]
        if not run.settled(artifact):
            left.setdefault(artifact.path, (subject, artifact))
    if not left:
        run.reused(stage)
    else:
        with run.stage(stage):
            run.ray()
            _score(run, shards, stage, split, list(left.values()), text_rows)
    reasons = {name: None if a.done() else a.failure() for name, a in artifacts.items()}
    return Scored(
        {name: Sheet(a) for name, a in artifacts.items() if reasons[name] is None},
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


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
        "generate": run.cfg.audit.generate,
        "max_examples": [task.max_examples for task in run.cfg.tasks],
    }
    # No name in its path: models of equal weights share it, whatever they are called.
    return run.artifact(f"{stage}-sheets", "", identity)


def _score(
    run: Run,
    shards: ShardSet,
    stage: str,
    split: str,
    left: Sequence[tuple[Subject, Artifact]],
    text_rows: int,
) -> None:
    from distill_ray.stages.scoring_worker import Job, Pool, score_in_pool

    pool = Pool.of(run.cfg.cluster, run.cfg.audit, run.progress)
    questions = held_out_questions(shards, split)
    scoring = Scoring(
        questions=questions,
        shards=shards.artifact,
        split=split,
        data=data_spec(shards, run.cfg.seed, text_rows),
        generate=run.cfg.audit.generate,
        device=pool.device,
    )
    parts = parts_of(questions, run.cfg.audit.questions_per_part)
    names, jobs = {}, []
    for subject, artifact in left:
        desk = Desk.of(artifact)
        desk.sweep()
        names[artifact.path] = subject.name
        jobs.append(Job(subject.ref, subject.teacher, artifact, desk.missing(parts)))
    for done, job in enumerate(score_in_pool(pool, jobs, scoring), start=1):
        reason = job.artifact.failure()
        if reason is None:
            _put_together(job.artifact, scoring.questions, parts)
        Desk.of(job.artifact).clear()
        said = "scored {}" if reason is None else "{} can't be scored: " + reason
        run.note(stage, said.format(names[job.artifact.path]), done=done, total=len(jobs))


def _put_together(artifact: Artifact, questions: Sequence[Any], parts: Sequence[Any]) -> None:
    """Make a sheet of its parts."""
    found: list[Mapping[str, Any]] = [Desk.of(artifact).read(part) for part in parts]
    with artifact.building() as building:
        building.started -= sum(part["wall_s"] for part in found)
        building.write_json("sheet.json", whole(questions, [dict(part) for part in found]))
        building.counts |= {"questions": sum(len(q.gold) for q in questions)}
