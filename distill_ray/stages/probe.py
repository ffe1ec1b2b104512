"""ShardSet, TeacherSet, AuditTable → ProbeTable: short distillations of the student."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from distill_ray.config.probe import ProbeConfig
from distill_ray.config.training import without
from distill_ray.core.plugins import own_functions
from distill_ray.data.mixing import mean_shares
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import CONTROL, ProbeTable
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import TeacherSet, softened
from distill_ray.stages.results.trial import Trial, TrialSpec, trial
from distill_ray.stages.selection.estimates import estimate_all
from distill_ray.stages.selection.factors import gather, next_wave
from distill_ray.stages.trials.run import run_left

VERSION = 4
NOT_IN_RESULT = {"seeds", "max_concurrent_trials", "race", "num_gradients", "control_token_budget"}
"""Keys of the config that say which probes there are, not what one shows."""


def probe(run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable) -> ProbeTable:
    """Distil the same student from every teacher for the same tokens, with several seeds.

    Beside them one control probe learns from the data alone: what a teacher has to add to.
    Teachers that may still lead race on with more seeds (`probe.race`).
    """
    found = task_questions(shards, "validation")
    questions = [q.first(run.cfg.probe.num_questions) for q in found]
    alive = [t for n, t in teachers.teachers.items() if n not in audited.failed]
    wave = [(t.name, seed) for seed in run.cfg.probe.seeds for t in alive]
    control = _control(run, shards, teachers, len(wave))
    made = ProbeTable(control=control, estimated=estimate_all(run, shards, teachers, audited))
    first = [control]
    while wave:
        new = [_taught(run, shards, teachers, audited, name, seed) for name, seed in wave]
        made = replace(made, trials=[*made.trials, *new])
        run_left(run, "probe", [*first, *new], questions)
        wave, first = [], []
        if run.cfg.probe.race is not None:
            wave = next_wave(run.cfg, gather(run.cfg, audited, made), made.seeds())
    return made


def _taught(
    run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable, name: str, seed: int
) -> Trial:
    cfg, teacher = run.cfg.probe, teachers.teachers[name]
    softness = audited.temperatures[name] if cfg.objective.calibrate else 1.0
    teaching = TeachingSpec({name: softened([teacher.serving.ref], softness)}, name)
    identity = {
        "teacher": [teacher.serving.fingerprint, softness],
        "probe": cfg.model_dump(mode="json", exclude=NOT_IN_RESULT),
        **own_functions(cfg.objective.divergence, cfg.objective.weighting),
    }
    return _trial(run, shards, teachers, name, seed, cfg, teaching, identity)


def _control(run: Run, shards: ShardSet, teachers: TeacherSet, probes: int) -> Trial:
    """The student on the rows that the data supervise, in the shares that `distill` has them."""
    cfg, full = run.cfg.probe, run.cfg.distill
    length = run.cfg.corpora.sequence_length
    rest = without(full, {task.prompts_stream for task in run.cfg.tasks})
    shares = mean_shares(full, full.num_steps(length))
    read = int(full.token_budget * sum(shares[stream] for stream in rest.streams))
    least = cfg.global_batch_size * length * cfg.num_curve_points
    tokens = cfg.control_token_budget or max(least, min(read, cfg.token_budget * probes))
    how = {"mix": rest.mix, "mixing": rest.mixing, "token_budget": tokens}
    training = cfg.model_copy(update=how)
    identity = {"control": training.model_dump(mode="json", exclude={*NOT_IN_RESULT, "objective"})}
    seed = cfg.seeds[0]
    return _trial(run, shards, teachers, CONTROL, seed, training, None, identity)


def _trial(
    run: Run,
    shards: ShardSet,
    teachers: TeacherSet,
    name: str,
    seed: int,
    training: ProbeConfig,
    teaching: TeachingSpec | None,
    identity: dict[str, Any],
) -> Trial:
    plan = TrialSpec(
        kind="probe",
        training=training,
        num_validation_rows=training.num_validation_rows,
        rungs=training.num_curve_points,
        order=run.cfg.seed * 1000 + seed,
        identity={"version": VERSION, **identity},
        objective=training.objective if teaching is not None else None,
        teaching=teaching,
    )
    return trial(run, shards, teachers.student, name, seed, plan)
