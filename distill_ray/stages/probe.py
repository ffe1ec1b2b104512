"""ShardSet, TeacherSet, AuditTable → ProbeTable: short distillations of the student."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from distill_ray.data.examples import Questions
from distill_ray.engine.job import Job, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet, softened
from distill_ray.stages.audit import AuditTable
from distill_ray.stages.estimates import EstimateTable, estimate_all
from distill_ray.stages.evidence import gather
from distill_ray.stages.race import next_wave
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet, held_out_questions
from distill_ray.stages.trials import Trial, Trials, run_left

VERSION = 3
NOT_IN_RESULT = {"seeds", "max_concurrent", "race", "gradients"}
"""Keys of the config that say which probes there are, not what one shows."""


@dataclass(frozen=True)
class ProbeTable(Trials):
    """The outcome of every probe, and what the student makes of each teacher's answers."""

    estimated: EstimateTable | None = None

    @property
    def estimates(self) -> dict[str, dict[str, Any] | None]:
        """Teacher → `EstimateTable.rows`."""
        return self.estimated.rows if self.estimated is not None else {}


def probe(run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable) -> ProbeTable:
    """Distil the same student from every teacher for the same tokens, with several seeds.

    Teachers that may still lead race on with more seeds (`probe.race`).
    """
    questions = _questions(run, shards)
    alive = [t for n, t in teachers.teachers.items() if n not in audited.failed]
    wave = [(t.name, seed) for seed in run.cfg.probe.seeds for t in alive]
    made = ProbeTable(estimated=estimate_all(run, shards, teachers, audited))
    while wave:
        new = [_trial(run, shards, teachers, audited, name, seed) for name, seed in wave]
        made = replace(made, trials=[*made.trials, *new])
        run_left(run, "probe", new, questions)
        wave = next_wave(run.cfg, gather(run.cfg, audited, made), made.seeds())
    return made


def _questions(run: Run, shards: ShardSet) -> list[Questions]:
    """The tasks' own questions, without the shifted sets, as many as the probe asks for."""
    tasks = {task.name for task in run.cfg.tasks}
    found = held_out_questions(shards, "validation")
    return [q.first(run.cfg.probe.questions) for q in found if q.name in tasks]


def _trial(
    run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable, name: str, seed: int
) -> Trial:
    cfg, teacher = run.cfg, teachers.teachers[name]
    softness = audited.temperatures[name] if cfg.probe.objective.calibrate else 1.0
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "teacher": [teacher.serving.fingerprint, softness],
        "shard": shards.artifact.fingerprint,
        "max_examples": [task.max_examples for task in cfg.tasks],
        "probe": cfg.probe.model_dump(mode="json", exclude=NOT_IN_RESULT),
        "seed": [cfg.seed, seed],
    }
    job = Job(
        name=f"{name}, seed {seed}",
        student=teachers.student.ref,
        training=cfg.probe,
        # The seed orders the rows; it is the same order for every teacher.
        data=data_spec(shards, cfg.seed * 1000 + seed, cfg.probe.validation_rows),
        objective=cfg.probe.objective,
        teaching=TeachingSpec({name: softened([teacher.serving.ref], softness)}, name),
        rungs=cfg.probe.rungs,
        backend="plain",
    )
    artifact = run.artifact("probe", f"{name}-s{seed}", identity)
    return Trial(name, seed, job, artifact, shards.artifact)
