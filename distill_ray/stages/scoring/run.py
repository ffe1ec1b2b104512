"""Models scored on held-out questions and text by a pool of actors, each sheet an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore, ScoringResult
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import ScoringInputs, merge, parts_of

VERSION = 3


def score_models(
    run: Run,
    shards: ShardSet,
    stage: str,
    split: str,
    subjects: Sequence[ModelToScore],
    text_rows: int,
) -> ScoringResult:
    """Score every subject that isn't scored yet; one that fails is left out, with the reason.

    A failure is recorded, and not tried again unless the run says so.
    """
    artifacts = {s.name: _artifact(run, shards, stage, split, s, text_rows) for s in subjects}
    left: dict[str, tuple[ModelToScore, Artifact]] = {}
    for subject in subjects:
        artifact = artifacts[subject.name]
        run.claim_retry(artifact)
        if not artifact.is_settled():
            left.setdefault(artifact.path, (subject, artifact))
    if not left:
        run.reused(stage)
    else:
        with run.stage(stage):
            run.ray()
            _score(run, shards, stage, split, list(left.values()), text_rows)
    reasons = {name: None if a.is_complete() else a.failure() for name, a in artifacts.items()}
    return ScoringResult(
        {name: ModelScores(a) for name, a in artifacts.items() if reasons[name] is None},
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def _artifact(
    run: Run, shards: ShardSet, stage: str, split: str, subject: ModelToScore, text_rows: int
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
    left: Sequence[tuple[ModelToScore, Artifact]],
    text_rows: int,
) -> None:
    from distill_ray.stages.scoring.worker import Pool, ScoringTask, score_in_pool

    pool = Pool.of(run.cfg.cluster, run.cfg.audit, run.progress)
    questions = held_out_questions(shards, split)
    scoring = ScoringInputs(
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
        desk = PartialScores.of(artifact)
        desk.sweep()
        names[artifact.path] = subject.name
        jobs.append(ScoringTask(subject.ref, subject.teacher, artifact, desk.missing(parts)))
    for done, job in enumerate(score_in_pool(pool, jobs, scoring), start=1):
        run.raise_if_interrupted()
        reason = job.artifact.failure()
        if reason is None:
            _put_together(job.artifact, scoring.questions, parts)
        PartialScores.of(job.artifact).clear()
        said = "scored {}" if reason is None else "{} can't be scored: " + reason
        run.note(stage, said.format(names[job.artifact.path]), completed=done, total=len(jobs))


def _put_together(artifact: Artifact, questions: Sequence[Any], parts: Sequence[Any]) -> None:
    """Make a sheet of its parts."""
    found: list[Mapping[str, Any]] = [PartialScores.of(artifact).read(part) for part in parts]
    with artifact.building() as building:
        building.started -= sum(part["wall_s"] for part in found)
        building.write_json("sheet.json", merge(questions, [dict(part) for part in found]))
        building.counts |= {"questions": sum(len(q.answer_index) for q in questions)}
