"""ShardSet, TeacherSet, AuditTable → ProbeTable: short distillations of the student."""

from __future__ import annotations

from dataclasses import replace

from distill_ray.config.fingerprint import identity as config_identity
from distill_ray.config.probe import ProbeConfig
from distill_ray.config.training import without
from distill_ray.core.plugins import own_functions
from distill_ray.data.mixing import mean_shares
from distill_ray.engine.job import TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.results.audit_table import AuditTable
from distill_ray.stages.results.probe_table import CONTROL, ProbeTable
from distill_ray.stages.results.shard_set import ShardSet, task_questions
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, softened
from distill_ray.stages.results.trial import Identity, TrialSpec, trial
from distill_ray.stages.selection.estimates import estimate_all
from distill_ray.stages.selection.factors import gather, next_wave
from distill_ray.stages.trials.run import run_missing

VERSION = 4


def probe(run: Run, shards: ShardSet, teachers: TeacherSet, audited: AuditTable) -> ProbeTable:
    """Distil the same student from every teacher for the same tokens, with several seeds.

    One control probe learns from the data alone: what a teacher has to add to. Teachers that may
    still lead race on with more seeds (`probe.race`).
    """
    questions = [q.first(run.cfg.probe.num_questions) for q in task_questions(shards, "validation")]
    scorable = [t for n, t in teachers.teachers.items() if n not in audited.failed]
    wave = [(t.name, seed) for seed in run.cfg.probe.seeds for t in scorable]
    control = trial(
        run,
        shards,
        teachers.student,
        CONTROL,
        run.cfg.probe.seeds[0],
        _control_spec(run, num_probes=len(wave)),
    )
    table = ProbeTable(control=control, estimated=estimate_all(run, shards, teachers, audited))
    first = [control]
    while wave:
        new = [
            trial(
                run,
                shards,
                teachers.student,
                name,
                seed,
                _probe_spec(run, teachers.teachers[name], audited.temperatures[name], seed),
            )
            for name, seed in wave
        ]
        table = replace(table, trials=[*table.trials, *new])
        run_missing(run, "probe", [*first, *new], questions)
        wave, first = [], []
        if run.cfg.probe.race is not None:
            wave = next_wave(run.cfg, gather(run.cfg, audited, table), table.seeds())
    return table


def _probe_spec(run: Run, teacher: Teacher, fitted: float, seed: int) -> TrialSpec:
    """A teacher's probe.

    Args:
        run: the run.
        teacher: who teaches.
        fitted: the temperature that calibrates it.
        seed: of the order of the rows.
    """
    cfg = run.cfg.probe
    temperature = fitted if cfg.objective.calibrate else 1.0
    identity = {
        "teacher": [teacher.serving.fingerprint, temperature],
        "probe": config_identity(cfg),
        **own_functions(cfg.objective.divergence, cfg.objective.weighting),
    }
    checkpoints = {teacher.name: softened([teacher.serving.ref], temperature)}
    spec = _spec(run, cfg, seed, identity)
    return replace(spec, objective=cfg.objective, teaching=TeachingSpec(checkpoints, teacher.name))


def _control_spec(run: Run, num_probes: int) -> TrialSpec:
    """The student on the rows that the data supervise, in the shares that `distill` has them."""
    cfg, full = run.cfg.probe, run.cfg.distill
    length = run.cfg.corpora.sequence_length
    supervised = without(full, {task.prompts_stream for task in run.cfg.tasks})
    shares = mean_shares(full, full.num_steps(length))
    supervised_tokens = int(
        full.token_budget * sum(shares[stream] for stream in supervised.streams)
    )
    least = cfg.global_batch_size * length * cfg.num_curve_points
    tokens = cfg.control_token_budget or max(
        least, min(supervised_tokens, cfg.token_budget * num_probes)
    )
    changes = {"mix": supervised.mix, "mixing": supervised.mixing, "token_budget": tokens}
    training = cfg.model_copy(update=changes)
    identity = {"control": config_identity(training, has_teacher=False)}
    return _spec(run, training, cfg.seeds[0], identity)


def _spec(run: Run, training: ProbeConfig, seed: int, identity: Identity) -> TrialSpec:
    """What all probes have in common."""
    return TrialSpec(
        kind="probe",
        training=training,
        num_validation_rows=training.num_validation_rows,
        num_checkpoints=training.num_curve_points,
        data_seed=run.cfg.seed * 1000 + seed,
        identity={"version": VERSION, **identity},
    )
