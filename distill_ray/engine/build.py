"""A training job → a session that is ready to train."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from distill_ray.config.ensemble import ENSEMBLE
from distill_ray.config.training import TrainingConfig
from distill_ray.core.matching import Matching
from distill_ray.core.plugins import find
from distill_ray.core.schedule import Decide, ScheduleState, TeacherCheckpoints, begin
from distill_ray.core.schedules import SCHEDULES
from distill_ray.core.strategies import STRATEGIES
from distill_ray.core.weighting import WEIGHTINGS
from distill_ray.data.batches import Batch, MixedRows, Rows, Stream, in_order
from distill_ray.data.mixing import mixing_of
from distill_ray.engine import comm
from distill_ray.engine.backends.base import Backend
from distill_ray.engine.backends.optim import OptimSpec
from distill_ray.engine.backends.plain import PlainBackend
from distill_ray.engine.backends.student import Student
from distill_ray.engine.job import FROZEN_STUDENT, DataSpec, TeachingSpec, TrainingSpec
from distill_ray.engine.matching import matching_of
from distill_ray.engine.measures import MEASURES
from distill_ray.engine.objective import Objective
from distill_ray.engine.session import (
    MatchedLayers,
    Session,
    SkippedSteps,
    Stopping,
    Teaching,
    Validation,
)
from distill_ray.engine.teachers.base import Colocated, TeacherSource
from distill_ray.engine.teachers.ensemble import TeacherEnsemble
from distill_ray.models.adapters import add_lora
from distill_ray.models.causal import require_head
from distill_ray.models.execution import Execution, checkpoint_activations
from distill_ray.models.load import load_model
from distill_ray.models.teachers import TeacherBank


def load_streams(data: DataSpec, split: str, limit: int | None = None) -> dict[str, Stream]:
    """Memory-mapped rows of every stream that has some in this split."""
    streams = {}
    for name, kind in data.kinds.items():
        folder = data.folder / "packed" / name / split
        if any(folder.glob("*.parquet")):
            streams[name] = Stream(Rows(folder, data.cache, limit), is_task=kind == "task")
    return streams


def build_session(
    job: TrainingSpec,
    device: torch.device,
    teacher: TeacherSource | None = None,
    frozen_student: TeacherSource | None = None,
) -> Session:
    """Load everything that a job needs on this rank. Collective where ranks are several.

    Args:
        job: what to train.
        device: where.
        teacher: where the teacher's answers come from; left out, it is loaded here.
        frozen_student: where its outputs come from, as checkpoint 0 of `FROZEN_STUDENT`; left out,
            it is loaded here if the job has one.
    """
    training, spec = job.training, _optim(job)
    source = mixed_rows(job)
    # The teacher first: nothing of DeepSpeed's is alive yet that could shard it.
    matching = _matching(job)
    teaching = _teaching(job, device, teacher, matching)
    return Session(
        backend=_backend(job, spec, source.num_micro, device, matching),
        source=source,
        num_micro=source.num_micro,
        objective=_objective(job),
        optim=spec,
        teaching=teaching,
        frozen_student=_frozen_student(job, device, frozen_student),
        validation=Validation(_held_out(job), job.validation_due),
        stopping=None if job.patience is None else Stopping(job.checkpoint_steps, job.patience),
        skipped=SkippedSteps(limit=training.max_skipped_steps),
        on_switch=job.on_switch,
        measures=MEASURES,
    )


def mixed_rows(job: TrainingSpec) -> MixedRows:
    """The rows that a job trains on, in their order; this rank's micro-batches of them."""
    training = job.training
    return MixedRows(
        load_streams(job.data, "train"),
        mixing_of(training, job.steps),
        global_batch_size=training.global_batch_size,
        micro_rows=training.micro_batch_size,
        seed=job.data.seed,
        rank=comm.rank(),
        world=comm.world(),
    )


def _optim(job: TrainingSpec) -> OptimSpec:
    training = job.training
    return OptimSpec(
        learning_rate=training.learning_rate,
        steps=job.steps,
        warmup=training.warmup_ratio,
        final=training.min_lr_ratio,
        weight_decay=training.weight_decay,
        clip=training.max_grad_norm,
    )


def _objective(job: TrainingSpec) -> Objective:
    weights = job.training.loss_weights.model_dump()
    if job.objective is None or job.teaching is None:
        return Objective(alpha=0.0, weights=weights)
    objective = job.objective
    match = objective.match
    kinds = {"hidden": match.hidden, "attention": match.attention}
    return Objective(
        alpha=objective.alpha,
        temperature=objective.temperature,
        divergence=objective.divergence,
        options=objective.options,
        weights=weights,
        match={kind: settings.weight for kind, settings in kinds.items() if settings is not None},
        weighting=find(objective.weighting, WEIGHTINGS) if objective.weighting else None,
    )


def _matching(job: TrainingSpec) -> Matching | None:
    if job.objective is None or job.teaching is None:
        return None
    teachers = {name: refs[-1] for name, refs in job.teaching.checkpoints.items()}
    return matching_of(job.objective.match, job.student, teachers, job.data.seed)


def _teaching(
    job: TrainingSpec, device: torch.device, source: TeacherSource | None, matching: Matching | None
) -> Teaching | None:
    spec = job.teaching
    if spec is None:
        return None
    source = source or colocated(job, device)
    state, checkpoints, decide = first_state(spec, job.steps)
    source.use(state.teacher, state.checkpoint_index)
    matched = None
    if matching is not None:
        assert isinstance(source, Colocated), "a config with another serving is refused"
        matched = MatchedLayers(source, partial(matching.layers, side=1))
    members = () if spec.ensemble is None else tuple(spec.checkpoints)
    return Teaching(source, checkpoints, decide, state, spec.rules, matched, members)


def _frozen_student(
    job: TrainingSpec, device: torch.device, source: TeacherSource | None
) -> TeacherSource | None:
    if job.teaching is None or job.objective is None or job.objective.weighting is None:
        return None
    if source is None:
        if job.frozen_student is None:
            raise ValueError(f"objective.weighting {job.objective.weighting} needs an anchor")
        checkpoints = {FROZEN_STUDENT: [job.frozen_student]}
        how = {"execution": execution(job.training), "vocabulary": job.data.vocabulary}
        source = Colocated(TeacherBank(checkpoints, device=device, **how))  # type: ignore[arg-type]
    source.use(FROZEN_STUDENT, 0)
    return source


def first_state(spec: TeachingSpec, steps: int) -> tuple[ScheduleState, TeacherCheckpoints, Decide]:
    """Where the schedule begins, what there is to choose from, and what decides."""
    counts = {name: len(refs) for name, refs in spec.checkpoints.items()}
    if spec.ensemble is not None:
        counts = {ENSEMBLE: max(counts.values())}
    checkpoints = TeacherCheckpoints(counts, steps, spec.ranking)
    decide = partial(find(spec.schedule, SCHEDULES), **spec.options)
    return begin(spec.first_teacher, checkpoints, decide), checkpoints, decide


def colocated(job: TrainingSpec, device: torch.device, *, shard: bool = False) -> TeacherSource:
    """The job's teachers in this process: one at a time, or all together.

    Args:
        job, device, shard: as in `teacher_bank`.
    """
    spec = job.teaching
    assert spec is not None
    if spec.ensemble is None:
        return Colocated(teacher_bank(job, device, shard=shard))
    banks = {}
    for name, refs in spec.checkpoints.items():
        alone = replace(job, teaching=replace(spec, checkpoints={name: refs}))
        banks[name] = teacher_bank(alone, device, shard=shard)
    strategy = partial(find(spec.ensemble.strategy, STRATEGIES), **spec.ensemble.options)
    return TeacherEnsemble(banks, strategy, seed=job.data.seed, collective=shard)


def teacher_bank(job: TrainingSpec, device: torch.device, *, shard: bool = False) -> TeacherBank:
    """The job's teachers, loaded on demand.

    Args:
        job: a distillation.
        device: where they compute.
        shard: spread each over all ranks, which then must ask for the same number of answers.
    """
    assert job.teaching is not None
    bank = partial(
        TeacherBank, job.teaching.checkpoints, device=device, vocabulary=job.data.vocabulary
    )
    if not shard:
        return bank(execution=execution(job.training))
    from distill_ray.engine.teachers.sharded import ShardedTeacher

    spread = partial(ShardedTeacher, device=device, precision=job.training.precision)
    # Weights come and go with each layer: nothing that a compiler could hold on to.
    return bank(execution=replace(execution(job.training), compiled=False), shard=spread)


def execution(training: TrainingConfig) -> Execution:
    """How the models of a training compute."""
    return Execution(training.precision, training.attn_implementation, training.torch_compile)


def _backend(
    job: TrainingSpec,
    spec: OptimSpec,
    num_micro: int,
    device: torch.device,
    matching: Matching | None,
) -> Backend:
    # Steps of AdamW are smaller than what bfloat16 weights can show. ZeRO keeps a float32 copy in
    # its shards; without shards the weights are float32, and the arithmetic is under autocast.
    training, plain = job.training, job.backend == "plain"
    full_precision = plain or training.zero_stage == 0
    model: Any = load_model(
        job.student, precision="float32" if full_precision else training.precision
    )
    if job.lora is not None:
        model = add_lora(model, **job.lora.model_dump(), seed=job.data.seed)
    require_head(model)
    execution(training).prepare(model)
    if training.activation_checkpointing:
        checkpoint_activations(model)
    student = Student(model, job.data.vocabulary, matching)
    if plain:
        return PlainBackend(student, spec, device, autocast=training.precision == "bfloat16")
    from distill_ray.engine.backends.deepspeed import DeepSpeedBackend

    return DeepSpeedBackend(
        student,
        spec,
        device,
        zero_stage=training.zero_stage,
        offload=training.offload,
        precision=training.precision,
        micro_rows=training.micro_batch_size,
        num_micro=num_micro,
    )


def held_out_streams(job: TrainingSpec) -> dict[str, Stream]:
    """Validation rows of those streams that the training reads, and of their tasks."""
    rows = load_streams(job.data, "validation", job.data.num_validation_rows)
    tasks = {name.partition(".")[0] for name in job.training.streams if "." in name}
    return {
        name: stream
        for name, stream in rows.items()
        if name in job.training.streams or name.partition(".")[0] in tasks
    }


def _held_out(job: TrainingSpec) -> Any:
    streams = held_out_streams(job)

    def batches(rows: int | None = None) -> Iterable[Batch]:
        return in_order(
            streams,
            global_batch_size=job.training.micro_batch_size,
            rank=comm.rank(),
            world=comm.world(),
            limit=rows,
        )

    return batches
