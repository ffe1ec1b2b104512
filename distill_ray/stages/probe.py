"""ShardSet, TeacherSet → ProbeTable: short distillations, one for each teacher and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill_ray.engine.job import Job, TeachingSpec
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import Teacher, TeacherSet, data_spec
from distill_ray.stages.audit import student_identity, student_ref
from distill_ray.stages.shard import ShardSet, held_out_questions

VERSION = 2


@dataclass(frozen=True)
class Trial:
    """One probe: a teacher and a seed, and the artifact that it fills."""

    teacher: str
    seed: int
    job: Job
    artifact: Artifact
    shards: Artifact


@dataclass(frozen=True)
class ProbeTable:
    """The outcome of every probe."""

    trials: list[Trial]

    @property
    def artifacts(self) -> list[Artifact]:
        """What the stage left."""
        return [trial.artifact for trial in self.trials]

    def fingerprints(self) -> list[str]:
        """Identity of every trial."""
        return [trial.artifact.fingerprint for trial in self.trials]

    def rows(self) -> list[dict[str, Any]]:
        """`teacher`, `seed`, `kl_removed`, `gain`, `curve` of each trial."""
        return [
            {"teacher": trial.teacher, "seed": trial.seed, **trial.artifact.read_json("probe.json")}
            for trial in self.trials
        ]


def probe(run: Run, shards: ShardSet, teachers: TeacherSet) -> ProbeTable:
    """Distil the same student from every teacher for the same tokens, with several seeds."""
    trials = [
        _trial(run, shards, teacher, seed)
        for seed in run.cfg.probe.seeds
        for teacher in teachers.teachers.values()
    ]
    left = [trial for trial in trials if not trial.artifact.done()]
    if left:
        from distill_ray.stages.probe_worker import run_trials

        with run.stage("probe"):
            run_trials(run, left, held_out_questions(shards, "validation"))
    else:
        run.reused("probe")
    return ProbeTable(trials)


def _trial(run: Run, shards: ShardSet, teacher: Teacher, seed: int) -> Trial:
    cfg = run.cfg
    identity = {
        "version": VERSION,
        "student": student_identity(run),
        "teacher": f"{teacher.fingerprint}/{teacher.best}",
        "shard": shards.artifact.fingerprint,
        "max_examples": [task.max_examples for task in cfg.tasks],
        "probe": cfg.probe.model_dump(mode="json", exclude={"seeds", "max_concurrent"}),
        "seed": [cfg.seed, seed],
    }
    job = Job(
        name=f"{teacher.name}, seed {seed}",
        student=student_ref(run, shards),
        training=cfg.probe,
        # The seed orders the rows; it is the same order for every teacher.
        data=data_spec(shards, cfg.seed * 1000 + seed, cfg.probe.validation_rows),
        objective=cfg.probe.objective,
        teaching=TeachingSpec({teacher.name: [teacher.ladder[-1]]}, teacher.name),
        rungs=cfg.probe.rungs,
        backend="plain",
    )
    artifact = run.artifact("probe", f"{teacher.name}-s{seed}", identity)
    return Trial(teacher.name, seed, job, artifact, shards.artifact)


def outcome(before: dict[str, float], rungs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a probe showed.

    Args:
        before: validation terms of the untrained student, with `question_nll`.
        rungs: the same at each rung, with `tokens`.

    Returns:
        `kl_removed`: share of the initial KL to the teacher that is gone, over all kinds of row;
        `gain`: fall of the gold answers' NLL over the options, nats per question; `curve`: both
        at each rung.
    """
    curve = [
        {
            "tokens": rung["tokens"],
            "kl_removed": _removed(before, rung),
            "gain": _gain(before, rung),
        }
        for rung in rungs
    ]
    last = curve[-1]
    return {"kl_removed": last["kl_removed"], "gain": last["gain"], "curve": curve}


def _removed(before: dict[str, float], after: dict[str, float]) -> float:
    """Tasks and text count alike: each kind's share, averaged."""
    shares = [1 - after[t] / before[t] for t in ("task.kl", "text.kl") if before.get(t, 0) > 0]
    return sum(shares) / len(shares) if shares else 0.0


def _gain(before: dict[str, float], after: dict[str, float]) -> float:
    return before["question_nll"] - after["question_nll"]
