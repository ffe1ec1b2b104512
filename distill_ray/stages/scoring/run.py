"""Models scored on held-out questions and text by a pool of actors, each an artifact."""

from __future__ import annotations

from collections.abc import Sequence

from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.model_scores import (
    MODEL_SCORES,
    ModelScores,
    ModelToScore,
    ScoringResult,
)
from distill_ray.stages.results.shard_set import ShardSet, held_out_questions
from distill_ray.stages.scoring.partial import PartialScores
from distill_ray.stages.scoring.parts import ScoringInputs, merge, parts_of

VERSION = 3


def score_models(
    run: Run,
    shards: ShardSet,
    stage: str,
    split: str,
    models: Sequence[ModelToScore],
    num_text_rows: int,
) -> ScoringResult:
    """Score every model that isn't scored yet; one that fails is reported with the reason.

    A failure is recorded. Only `--retry-failed` tries it again.
    """
    artifacts = {m.name: _artifact(run, shards, stage, split, m, num_text_rows) for m in models}
    missing: dict[str, tuple[ModelToScore, Artifact]] = {}
    for model in models:
        artifact = artifacts[model.name]
        run.claim_retry(artifact)
        if not artifact.is_settled():
            missing.setdefault(artifact.path, (model, artifact))
    if not missing:
        run.reused(stage)
    else:
        with run.stage(stage):
            run.ray()
            _score(run, shards, stage, split, list(missing.values()), num_text_rows)
    reasons = {name: None if a.is_complete() else a.failure() for name, a in artifacts.items()}
    return ScoringResult(
        {name: ModelScores(a) for name, a in artifacts.items() if reasons[name] is None},
        {name: reason for name, reason in reasons.items() if reason is not None},
    )


def _artifact(
    run: Run, shards: ShardSet, stage: str, split: str, model: ModelToScore, num_text_rows: int
) -> Artifact:
    identity = {
        "version": VERSION,
        "shard": shards.artifact.fingerprint,
        "model": model.fingerprint,
        "teacher": model.teacher_fingerprint,
        "split": split,
        "num_text_rows": num_text_rows,
        "generate": run.cfg.audit.num_generated,
        "max_examples": [task.max_examples for task in run.cfg.tasks],
    }
    # No name in its path: models of equal weights share it, whatever they are called.
    return run.artifact(f"{stage}-scores", "", identity)


def _score(
    run: Run,
    shards: ShardSet,
    stage: str,
    split: str,
    missing: Sequence[tuple[ModelToScore, Artifact]],
    num_text_rows: int,
) -> None:
    """Score the missing models in a pool, and write the scores of each when it ends."""
    from distill_ray.stages.scoring.worker import Pool, ScoringTask, score_in_pool

    pool = Pool.of(run.cfg.cluster, run.cfg.audit, run.progress)
    questions = held_out_questions(shards, split)
    scoring = ScoringInputs(
        questions=questions,
        shards=shards.artifact,
        split=split,
        data=data_spec(shards, run.cfg.seed, num_text_rows),
        num_generated=run.cfg.audit.num_generated,
        device=pool.device,
    )
    parts = parts_of(questions, run.cfg.audit.questions_per_chunk)
    names, tasks = {}, []
    for model, artifact in missing:
        partial = PartialScores.of(artifact)
        partial.reset()
        names[artifact.path] = model.name
        tasks.append(ScoringTask(model.ref, model.teacher, artifact, partial.missing(parts)))
    for ended, task in enumerate(score_in_pool(pool, tasks, scoring), start=1):
        run.raise_if_interrupted()
        name, reason = names[task.artifact.path], task.artifact.failure()
        partial = PartialScores.of(task.artifact)
        if reason is None:
            scores = [partial.read(part) for part in parts]
            with task.artifact.building() as building:
                # The actors' time, which was spent before this process merges.
                building.started -= sum(part.wall_s for part in scores)
                merge(questions, scores).write(building, MODEL_SCORES)
                building.counts |= {"questions": sum(len(q.answer_index) for q in questions)}
        partial.clear()
        text = f"scored {name}" if reason is None else f"{name} can't be scored: {reason}"
        run.note(stage, text, completed=ended, total=len(tasks))
