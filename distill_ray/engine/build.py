"""Build a session from a `TrainingSpec`."""

from __future__ import annotations

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
from distill_ray.data.batches import MixedRows, Rows, Stream, in_order
from distill_ray.data.mixing import mixing_of
from distill_ray.data.order import BatchLayout
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
    """Open the memory-mapped rows of every stream that has some in this split."""
    streams = {}
    for name, kind in data.kinds.items():
        folder = data.folder / "packed" / name / split
        if any(folder.glob("*.parquet")):
            streams[name] = Stream(Rows(folder, data.cache, limit), is_task=kind == "task")
    return streams


def build_session(
    spec: TrainingSpec,
    device: torch.device,
    teacher: TeacherSource | None = None,
    frozen_student: TeacherSource | None = None,
) -> Session:
    """Load everything that a run needs on this rank. Every rank calls it.

    Args:
        spec: what to train.
        device: where the student trains, and where teachers compute that are loaded here.
        teacher: source of the teacher's output; by default it is loaded here.
        frozen_student: source of the frozen student's output, as checkpoint 0 of `FROZEN_STUDENT`;
            by default it is loaded here, if the training has one.
    """
    training = spec.training
    optim = OptimSpec(
        learning_rate=training.learning_rate,
        steps=spec.steps,
        warmup_ratio=training.warmup_ratio,
        min_lr_ratio=training.min_lr_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
    )
    source = mixed_rows(spec)
    matching = None
    if spec.objective is not None and spec.teaching is not None:
        teachers = {name: refs[-1] for name, refs in spec.teaching.checkpoints.items()}
        matching = matching_of(spec.objective.match, spec.student, teachers, spec.data.seed)
    # The teacher loads first: DeepSpeed, once alive, could shard it.
    teaching = _teaching(spec, device, teacher, matching)
    held_out = partial(
        in_order,
        held_out_streams(spec),
        batch_size=training.micro_batch_size,
        rank=comm.rank(),
        world=comm.world(),
    )
    return Session(
        backend=_backend(spec, optim, source.num_micro, device, matching),
        source=source,
        num_micro=source.num_micro,
        objective=_objective(spec),
        optim=optim,
        teaching=teaching,
        frozen_student=_frozen_student(spec, device, frozen_student),
        validation=Validation(held_out, spec.validation_due),
        stopping=None if spec.patience is None else Stopping(spec.checkpoint_steps, spec.patience),
        skipped=SkippedSteps(limit=training.max_skipped_steps),
        on_switch=spec.on_switch,
        measures=MEASURES,
    )


def mixed_rows(spec: TrainingSpec) -> MixedRows:
    """Open the run's training rows in order, as this rank's micro-batches."""
    training = spec.training
    layout = BatchLayout(
        training.global_batch_size, training.micro_batch_size, comm.rank(), comm.world()
    )
    streams = load_streams(spec.data, "train")
    return MixedRows(streams, mixing_of(training, spec.steps), layout, seed=spec.data.seed)


def _objective(spec: TrainingSpec) -> Objective:
    weights = spec.training.loss_weights.model_dump()
    if spec.objective is None or spec.teaching is None:
        return Objective(alpha=0.0, weights=weights)
    objective = spec.objective
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


def _teaching(
    spec: TrainingSpec,
    device: torch.device,
    source: TeacherSource | None,
    matching: Matching | None,
) -> Teaching | None:
    teaching = spec.teaching
    if teaching is None:
        return None
    source = source or colocated(spec, device)
    state, checkpoints, decide = first_state(teaching, spec.steps)
    source.use(state.teacher, state.checkpoint_index)
    matched = None
    if matching is not None:
        assert isinstance(source, Colocated), "a config with another serving is refused"
        matched = MatchedLayers(source, partial(matching.layers, side=1))
    members = () if teaching.ensemble is None else tuple(teaching.checkpoints)
    return Teaching(source, checkpoints, decide, state, teaching.rules, matched, members)


def _frozen_student(
    spec: TrainingSpec, device: torch.device, source: TeacherSource | None
) -> TeacherSource | None:
    if spec.teaching is None or spec.objective is None or spec.objective.weighting is None:
        return None
    if source is None:
        if spec.frozen_student is None:
            raise ValueError(
                f"objective.weighting {spec.objective.weighting} needs a frozen student"
            )
        checkpoints = {FROZEN_STUDENT: [spec.frozen_student]}
        how = {"execution": execution(spec.training), "vocabulary": spec.data.vocabulary}
        source = Colocated(TeacherBank(checkpoints, device=device, **how))  # type: ignore[arg-type]
    source.use(FROZEN_STUDENT, 0)
    return source


def first_state(
    teaching: TeachingSpec, steps: int
) -> tuple[ScheduleState, TeacherCheckpoints, Decide]:
    """Give the schedule's first state, the checkpoints, and the schedule function."""
    counts = {name: len(refs) for name, refs in teaching.checkpoints.items()}
    if teaching.ensemble is not None:
        counts = {ENSEMBLE: max(counts.values())}
    checkpoints = TeacherCheckpoints(counts, steps, teaching.ranking)
    decide = partial(find(teaching.schedule, SCHEDULES), **teaching.options)
    return begin(teaching.first_teacher, checkpoints, decide), checkpoints, decide


def colocated(spec: TrainingSpec, device: torch.device, *, shard: bool = False) -> TeacherSource:
    """Serve the training's teachers in this process: one at a time, or all together.

    Args:
        spec, device, shard: as in `teacher_bank`.
    """
    teaching = spec.teaching
    assert teaching is not None
    if teaching.ensemble is None:
        return Colocated(teacher_bank(spec, device, shard=shard))
    banks = {}
    for name, refs in teaching.checkpoints.items():
        alone = replace(spec, teaching=replace(teaching, checkpoints={name: refs}))
        banks[name] = teacher_bank(alone, device, shard=shard)
    strategy = partial(find(teaching.ensemble.strategy, STRATEGIES), **teaching.ensemble.options)
    return TeacherEnsemble(banks, strategy, seed=spec.data.seed, collective=shard)


def teacher_bank(spec: TrainingSpec, device: torch.device, *, shard: bool = False) -> TeacherBank:
    """Make a bank of the training's teachers, which loads them on demand.

    Args:
        spec: a distillation.
        device: where they compute.
        shard: shard each over all ranks, which must then run the same number of forward passes.
    """
    assert spec.teaching is not None
    bank = partial(
        TeacherBank, spec.teaching.checkpoints, device=device, vocabulary=spec.data.vocabulary
    )
    if not shard:
        return bank(execution=execution(spec.training))
    from distill_ray.engine.teachers.sharded import ShardedTeacher

    spread = partial(ShardedTeacher, device=device, precision=spec.training.precision)
    # Weights come and go with each layer: nothing that a compiler could hold on to.
    return bank(execution=replace(execution(spec.training), compiled=False), shard=spread)


def execution(training: TrainingConfig) -> Execution:
    """Say how the models of a training compute."""
    return Execution(training.precision, training.attn_implementation, training.torch_compile)


def _backend(
    spec: TrainingSpec,
    optim: OptimSpec,
    num_micro: int,
    device: torch.device,
    matching: Matching | None,
) -> Backend:
    # AdamW's updates are smaller than bfloat16 weights can represent. ZeRO keeps a float32 copy in
    # its shards; without shards the weights are float32, and the arithmetic is under autocast.
    training, plain = spec.training, spec.backend == "plain"
    full_precision = plain or training.zero_stage == 0
    model: Any = load_model(
        spec.student, precision="float32" if full_precision else training.precision
    )
    if spec.lora is not None:
        model = add_lora(model, **spec.lora.model_dump(), seed=spec.data.seed)
    require_head(model)
    execution(training).prepare(model)
    if training.activation_checkpointing:
        checkpoint_activations(model)
    student = Student(model, spec.data.vocabulary, matching)
    if plain:
        return PlainBackend(student, optim, device, autocast=training.precision == "bfloat16")
    from distill_ray.engine.backends.deepspeed import DeepSpeedBackend, ZeroSpec

    zero = ZeroSpec(
        training.zero_stage,
        training.precision,
        training.micro_batch_size,
        num_micro,
        training.offload,
    )
    return DeepSpeedBackend(student, optim, device, zero)


def held_out_streams(spec: TrainingSpec) -> dict[str, Stream]:
    """Open the validation rows of the streams that the training reads, and of their tasks."""
    rows = load_streams(spec.data, "validation", spec.data.num_validation_rows)
    tasks = {name.partition(".")[0] for name in spec.training.streams if "." in name}
    return {
        name: stream
        for name, stream in rows.items()
        if name in spec.training.streams or name.partition(".")[0] in tasks
    }
