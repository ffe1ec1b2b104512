"""What a run will do and need, told before anything starts. Reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distill_ray.config.fingerprint import canonical
from distill_ray.config.models import ModelSource
from distill_ray.config.run import RunConfig
from distill_ray.config.schedule import RankedSchedule, scheduling
from distill_ray.config.serving import CachedServing, PoolServing, TopKTargets
from distill_ray.config.training import TrainingConfig, without
from distill_ray.config.uris import local_path
from distill_ray.core.memory import (
    MemoryEstimate,
    ModelShape,
    TrainingSetup,
    serving_need,
    targets_bytes,
    training_need,
)
from distill_ray.core.schedules import interval_steps
from distill_ray.data.mixing import mean_shares
from distill_ray.models.inspect import shape_of
from distill_ray.runtime.capacity import machine
from distill_ray.runtime.storage import Storage

BYTES_PER_PARAM = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Work:
    """One stage's work."""

    stage: str
    what: str
    tokens: int | None = None
    steps: int | None = None
    undone_steps: int | None = None
    """Steps that a schedule's probes take beside them, at most: from the student as it is."""
    trials: int | None = None
    streams: dict[str, int] | None = None
    """Stream → its share of the tokens."""
    need: MemoryEstimate | None = None
    """Memory of the largest worker; None where a hub model's size isn't known yet."""
    workers: int = 1
    """Workers of that size at a time."""
    beside: bool = False
    """Whether it runs together with the work that follows."""
    disk_bytes: int | None = None
    """What it writes into the storage at most, where that is much."""


@dataclass(frozen=True)
class Plan:
    """A run, before it starts."""

    name: str
    work: list[Work]
    workers: int
    available_bytes: int | None
    """Memory that one worker has; None when the config doesn't say what a GPU has."""
    free_disk_bytes: int | None = None
    """Room in a local storage."""

    @property
    def short_of_disk(self) -> list[Work]:
        """Stages that may write more than the storage has room for."""
        if self.free_disk_bytes is None:
            return []
        return [w for w in self.work if (w.disk_bytes or 0) > self.free_disk_bytes]

    @property
    def short_of_memory(self) -> list[Work]:
        """Stages whose worker needs more than there is."""
        if self.available_bytes is None:
            return []
        limit = self.available_bytes
        return [w for w in self.work if w.need is not None and w.need.total > limit]


def plan(cfg: RunConfig) -> Plan:
    """List the work of every stage, in the order of the route, with what it needs."""
    sources = len(cfg.corpora.sources) + len(cfg.tasks)
    questions = sum(task.max_examples for task in cfg.tasks)
    models = len(cfg.teachers)
    base = len({canonical(teacher.model) for teacher in cfg.teachers if teacher.recipes})
    work = [
        Work("shard", f"{sources} sources → rows of {cfg.corpora.sequence_length} tokens"),
        *_adaptations(cfg),
        Work("audit", f"{models + base + 1} models x at most {questions} questions"),
        _probes(cfg),
        Work("rank", f"{models} teachers in 3 phases of training, {cfg.rank.num_draws} draws"),
        *_distillation(cfg),
        Work("evaluate", f"{models + 3} models x at most {questions} questions"),
        Work("report", "report.html, report.md, report.json, the student's folder"),
    ]
    available = None
    if cfg.cluster.memory_gib_per_worker is not None:
        available = int(cfg.cluster.memory_gib_per_worker * 2**30)
    elif not cfg.cluster.gpus_per_worker and cfg.cluster.address is None:
        # Actors on GPUs of their own leave the machine's memory to the workers.
        actors = sum(0 if pool.gpus_per_actor else pool.num_actors for pool in cfg.distill.pools())
        available = machine().memory_bytes // (cfg.cluster.num_workers + actors)
    # A bucket has room, and isn't asked: a plan needs no network.
    free = None if local_path(cfg.storage) is None else Storage(cfg.storage).free_bytes()
    return Plan(cfg.name, work, cfg.cluster.num_workers, available, free)


def _adaptations(cfg: RunConfig) -> Iterator[Work]:
    """Every recipe of every model once; teachers that begin alike share them."""
    chains = [(t.name, t.model, t.recipes) for t in cfg.teachers]
    chains.append(("student", cfg.student.model, cfg.student.recipes))
    planned = set()
    for model_name, model, names in chains:
        for i, name in enumerate(names):
            chain, recipe = canonical([model, names[: i + 1]]), cfg.adapt.recipes[name]
            if chain in planned:
                continue
            planned.add(chain)
            shape, setup = _shape(cfg, model), _setup(cfg, recipe)
            if shape is not None and recipe.method == "lora":
                # Two factors of this rank on each layer's seven linear maps, at about its width.
                added = 14 * recipe.lora.rank * shape.hidden * shape.layers
                setup = replace(setup, trained=min(1.0, added / shape.parameters))
            what = f"{model_name}: {name} ({recipe.method}), {recipe.num_checkpoints} checkpoints"
            yield _training(cfg, "adapt", what, recipe, _need(shape, setup))


def _probes(cfg: RunConfig) -> Work:
    """Trials on one worker each, several at a time."""
    trials = len(cfg.teachers) * len(cfg.probe.seeds)
    what = f"{len(cfg.teachers)} teachers x {len(cfg.probe.seeds)} seeds"
    if cfg.probe.race is not None and cfg.probe.race.max_seeds > len(cfg.probe.seeds):
        what += f", up to {cfg.probe.race.max_seeds} where the order is open"
    teacher = largest_teacher(cfg)
    student = _shape(cfg, cfg.student.model) if teacher is not None else None
    setup = replace(_setup(cfg, cfg.probe), workers=1, teacher=teacher)
    work = _training(cfg, "probe", what, cfg.probe, _need(student, setup))
    at_once = min(cfg.probe.max_concurrent_trials or cfg.cluster.num_workers, trials)
    return replace(work, trials=trials, workers=at_once)


def _distillation(cfg: RunConfig) -> Iterator[Work]:
    """What serves the teacher and the frozen student, then the student, then its control."""
    distill, serving, ensemble = cfg.distill, cfg.distill.serving, cfg.distill.ensemble
    student, teacher = _shape(cfg, cfg.student.model), _teaching(cfg)
    in_worker, is_known = teacher, teacher is not None
    if isinstance(serving, CachedServing):
        yield _cached_targets(cfg, serving, teacher)
        in_worker, is_known = None, True
    elif isinstance(serving, PoolServing):
        device = "cuda" if serving.gpus_per_actor else "cpu"
        need = _serving_need(cfg, teacher, not serving.is_exact, device)
        actors = f"{serving.num_actors} actor{'s' * (serving.num_actors > 1)} beside the workers"
        what = f"teacher pool: {actors}, {serving.targets.kind} targets"
        yield Work("distill", what, need=need, workers=serving.num_actors, beside=True)
        in_worker, is_known = None, is_known or not serving.is_exact
        if teacher is not None and serving.is_exact:  # Its output weights read hidden states.
            in_worker = replace(teacher, parameters=teacher.vocabulary * teacher.hidden)
    elif teacher is not None and serving.shard:  # Its output weights stay whole.
        head = teacher.vocabulary * teacher.hidden
        part = -(-(teacher.parameters - head) // cfg.cluster.num_workers)
        in_worker = replace(teacher, parameters=head + part)
    if distill.objective.weighting is not None:  # The control's losses are targets of one id.
        tokens = _target_tokens(cfg, 1)
        what = f"losses of the control, for at most {tokens:,} tokens"
        yield Work("frozen-student", what, disk_bytes=targets_bytes(tokens, 1))
    what = f"student, schedule {scheduling(distill.schedule)[0]}"
    what += f", several teachers: {ensemble.strategy}" if ensemble is not None else ""
    undone = _undone_steps(cfg)
    what += f", at most {undone:,} more steps in its probes" if undone else ""
    setup = replace(_setup(cfg, distill), teacher=in_worker, mixed=ensemble is not None)
    setup = replace(setup, probing=undone is not None)
    need = _need(student, setup) if is_known else None
    yield replace(_training(cfg, "distill", what, distill, need), undone_steps=undone)
    control = without(distill, {task.prompts_stream for task in cfg.tasks})
    need = _need(student, _setup(cfg, control))
    yield _training(cfg, "distill", "control without a teacher", control, need)


def _undone_steps(cfg: RunConfig) -> int | None:
    """Count what the schedule `ranked` assesses each teacher's best with; None if it never does."""
    schedule, steps = cfg.distill.schedule, cfg.distill.num_steps(cfg.corpora.sequence_length)
    if not isinstance(schedule, RankedSchedule) or len(cfg.teachers) < 2:
        return None
    apart = (
        schedule.window if schedule.interval is None else interval_steps(schedule.interval, steps)
    )
    return int((steps - 1) // apart) * len(cfg.teachers) * schedule.probe_steps or None


def _training(
    cfg: RunConfig, stage: str, what: str, training: TrainingConfig, need: MemoryEstimate | None
) -> Work:
    """A training on all workers."""
    length = cfg.corpora.sequence_length
    steps = training.num_steps(length)
    tokens = steps * training.global_batch_size * length
    shares = mean_shares(training, steps)
    streams = {name: round(share * tokens) for name, share in shares.items()}
    work = Work(stage, what, tokens, steps, streams=streams, need=need)
    return replace(work, workers=cfg.cluster.num_workers)


def _setup(cfg: RunConfig, training: TrainingConfig) -> TrainingSetup:
    """What determines the memory of a training on all workers, of all weights, by itself."""
    return TrainingSetup(
        rows=training.micro_batch_size,
        length=cfg.corpora.sequence_length,
        workers=cfg.cluster.num_workers,
        zero_stage=training.zero_stage,
        bytes_per_param=BYTES_PER_PARAM[training.precision],
        checkpointing=training.activation_checkpointing,
        offload=(training.offload.optimizer, training.offload.parameters),
        device="cuda" if cfg.cluster.gpus_per_worker else "cpu",
    )


def _need(student: ModelShape | None, setup: TrainingSetup) -> MemoryEstimate | None:
    """Memory of one worker; None where the student's size isn't known."""
    return training_need(student, setup) if student is not None else None


def _cached_targets(cfg: RunConfig, serving: CachedServing, teacher: ModelShape | None) -> Work:
    """The pass that computes a teacher's targets: at most all checkpoints are asked."""
    targets = serving.targets
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    checkpoints = 1
    if cfg.distill.schedule.kind != "fixed":
        recipes = [cfg.adapt.recipes[t.recipes[-1]] for t in cfg.teachers if t.recipes]
        checkpoints = max((recipe.num_checkpoints for recipe in recipes), default=1)
    tokens = _target_tokens(cfg, checkpoints + len(cfg.teachers) - 1)
    what = f"{targets.kind} of {k}, for at most {tokens:,} tokens"
    need = _serving_need(cfg, teacher, True, "cuda" if cfg.cluster.gpus_per_worker else "cpu")
    disk = targets_bytes(tokens, k)
    return Work("targets", what, need=need, workers=serving.num_actors, disk_bytes=disk)


def _target_tokens(cfg: RunConfig, checkpoints: int) -> int:
    """Tokens that have targets at most: all are supervised, and no row is read twice.

    Args:
        cfg: the run's.
        checkpoints: how many have targets for the held-out rows.
    """
    length = cfg.corpora.sequence_length
    trained = cfg.distill.num_steps(length) * cfg.distill.global_batch_size * length
    held_out = len(cfg.streams()) * cfg.distill.num_validation_rows * length
    return trained + checkpoints * held_out


def _serving_need(
    cfg: RunConfig, teacher: ModelShape | None, is_sparse: bool, device: str
) -> MemoryEstimate | None:
    """Memory of a process that a teacher answers in."""
    if teacher is None:
        return None
    return serving_need(
        teacher,
        rows=cfg.distill.micro_batch_size,
        length=cfg.corpora.sequence_length,
        bytes_per_param=BYTES_PER_PARAM[cfg.distill.precision],
        is_sparse=is_sparse,
        device=device,
    )


def largest_teacher(cfg: RunConfig) -> ModelShape | None:
    """The teacher that takes the most memory, or None where a size isn't known before loading."""
    shapes = _known_shapes(cfg, [teacher.name for teacher in cfg.teachers])
    return max(shapes, key=lambda shape: shape.parameters) if shapes else None


def _teaching(cfg: RunConfig) -> ModelShape | None:
    """What is beside the student: the largest teacher, or all that teach at once.

    Of several, the sum is that of parameters, and of the output weights that stay whole.
    """
    ensemble = cfg.distill.ensemble
    if ensemble is None:
        return largest_teacher(cfg)
    shapes = _known_shapes(cfg, ensemble.teachers or [teacher.name for teacher in cfg.teachers])
    if not shapes:
        return None
    parameters, hidden = sum(s.parameters for s in shapes), sum(s.hidden for s in shapes)
    return replace(shapes[0], parameters=parameters, hidden=hidden)


def _known_shapes(cfg: RunConfig, names: Sequence[str]) -> list[ModelShape]:
    """The sizes of some teachers; none unless all are known."""
    shapes = [_shape(cfg, cfg.teacher(name).model) for name in names]
    known = [shape for shape in shapes if shape is not None]
    return known if len(known) == len(shapes) else []


def _shape(cfg: RunConfig, model: ModelSource) -> ModelShape | None:
    """A model's sizes, with the student's tokenizer; None where only the hub knows them."""
    tokenizer = cfg.student.tokenizer
    trained = tokenizer.train if tokenizer is not None else None
    return shape_of(model, trained.vocab_size if trained else None)


def plain(plan: Plan) -> dict[str, object]:
    """The plan as plain values."""
    rows = []
    for work in plan.work:
        row: dict[str, object] = {"stage": work.stage, "what": work.what}
        numbers = {"tokens": work.tokens, "steps": work.steps, "trials": work.trials}
        numbers["undone_steps"] = work.undone_steps
        row |= {key: value for key, value in numbers.items() if value is not None}
        row |= {"streams": work.streams} if work.streams else {}
        if work.need is not None:
            row["memory_bytes"] = {**vars(work.need), "total": work.need.total}
        if work.disk_bytes is not None:
            row["disk_bytes"] = work.disk_bytes
        rows.append(row)
    return {
        "name": plan.name,
        "workers": plan.workers,
        "available_bytes_per_worker": plan.available_bytes,
        "free_disk_bytes": plan.free_disk_bytes,
        "work": rows,
    }
