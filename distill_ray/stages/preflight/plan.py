"""What a run will do and need, told before anything starts. Reads no weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from distill_ray.config.fingerprint import canonical
from distill_ray.config.models import ModelSource
from distill_ray.config.run import RunConfig
from distill_ray.config.schedule import RankedSchedule, scheduling
from distill_ray.config.serving import CachedServing, ColocatedServing, PoolServing, TopKTargets
from distill_ray.config.training import RecipeConfig, TrainingConfig, without
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

WIDTHS = {"float32": 4, "bfloat16": 2}


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
    """Work and memory of every stage."""
    # A bucket has room, and isn't asked: a plan needs no network.
    remote = "://" in cfg.storage and not cfg.storage.startswith("file://")
    free = None if remote else Storage(cfg.storage).free_bytes()
    return Plan(cfg.name, list(_work(cfg)), cfg.cluster.num_workers, _available(cfg), free)


def _available(cfg: RunConfig) -> int | None:
    stated = cfg.cluster.memory_gib_per_worker
    if stated is not None:
        return int(stated * 2**30)
    if cfg.cluster.gpus_per_worker or cfg.cluster.address is not None:
        return None
    # Actors on GPUs of their own leave the machine's memory to the workers.
    actors = sum(0 if pool.gpus_per_actor else pool.num_actors for pool in cfg.distill.pools())
    return machine().memory_bytes // (cfg.cluster.num_workers + actors)


def _work(cfg: RunConfig) -> Iterator[Work]:
    sources = len(cfg.corpora.sources) + len(cfg.tasks)
    yield Work("shard", f"{sources} sources → rows of {cfg.corpora.sequence_length} tokens")
    yield from _adaptations(cfg)
    questions = sum(task.max_examples for task in cfg.tasks)
    models = len(cfg.teachers)
    raw = len({canonical(teacher.model) for teacher in cfg.teachers if teacher.recipes})
    yield Work("audit", f"{models + raw + 1} models x at most {questions} questions")
    yield _probe(cfg)
    yield Work("rank", f"{models} teachers at 3 stages of training, {cfg.rank.num_draws} draws")
    student, largest = _sizes(cfg, cfg.student.model), _teaching(cfg)
    known = student if largest is not None else None
    several = cfg.distill.ensemble
    text = f"student, schedule {scheduling(cfg.distill.schedule)[0]}"
    text += f", several teachers: {several.strategy}" if several is not None else ""
    undone = _undone_steps(cfg)
    text += f", at most {undone:,} more steps in its probes" if undone else ""
    if isinstance(cfg.distill.serving, CachedServing):
        yield _targets(cfg, cfg.distill.serving, largest)
        known, largest = student, None  # It isn't in the workers.
    for pool in cfg.distill.pools():
        yield _pool(cfg, pool, largest)
        known, largest = (known, _head(largest)) if pool.is_exact else (student, None)
    if isinstance(cfg.distill.serving, ColocatedServing) and cfg.distill.serving.shard:
        largest = _part(largest, cfg.cluster.num_workers)
    if cfg.distill.objective.weighting is not None:
        yield _frozen_student(cfg)
    uses = {"mixed": several is not None, "probing": undone is not None}
    work = _training(cfg, "distill", text, cfg.distill, known, largest, **uses)
    yield replace(work, undone_steps=undone)
    control = without(cfg.distill, {task.prompts_stream for task in cfg.tasks})
    yield _training(cfg, "distill", "control without a teacher", control, student, None)
    yield Work("evaluate", f"{models + 3} models x at most {questions} questions")
    yield Work("report", "report.html, report.md, report.json, the student's folder")


def _undone_steps(cfg: RunConfig) -> int | None:
    """Of the schedule `ranked`, which assesses each teacher's best; none where it never does."""
    schedule, steps = cfg.distill.schedule, cfg.distill.num_steps(cfg.corpora.sequence_length)
    if not isinstance(schedule, RankedSchedule) or len(cfg.teachers) < 2:
        return None
    apart = (
        schedule.window if schedule.interval is None else interval_steps(schedule.interval, steps)
    )
    return int((steps - 1) // apart) * len(cfg.teachers) * schedule.probe_steps or None


def _adaptations(cfg: RunConfig) -> Iterator[Work]:
    """Every recipe of every model once; teachers that begin alike share them."""
    chains = [(t.name, t.model, t.recipes) for t in cfg.teachers]
    chains.append(("student", cfg.student.model, cfg.student.recipes))
    planned = set()
    for name, model, recipes in chains:
        for i, recipe in enumerate(recipes):
            chain = canonical([model, recipes[: i + 1]])
            if chain not in planned:
                planned.add(chain)
                yield _adapt(cfg, name, model, recipe, cfg.adapt.recipes[recipe])


def _adapt(
    cfg: RunConfig, teacher: str, model: ModelSource, name: str, recipe: RecipeConfig
) -> Work:
    sizes = _sizes(cfg, model)
    trained = 1.0
    if sizes is not None and recipe.method == "lora":
        # Two factors of this rank on the seven linear maps of each layer, at about its width.
        added = 14 * recipe.lora.rank * sizes.hidden * sizes.layers
        trained = min(1.0, added / sizes.parameters)
    text = f"{teacher}: {name} ({recipe.method}), {recipe.num_checkpoints} checkpoints"
    return _training(cfg, "adapt", text, recipe, sizes, None, trained=trained)


def _probe(cfg: RunConfig) -> Work:
    trials = len(cfg.teachers) * len(cfg.probe.seeds)
    text = f"{len(cfg.teachers)} teachers x {len(cfg.probe.seeds)} seeds"
    if cfg.probe.race is not None and cfg.probe.race.max_seeds > len(cfg.probe.seeds):
        text += f", up to {cfg.probe.race.max_seeds} where the order is open"
    student = _sizes(cfg, cfg.student.model)
    teacher = largest_teacher(cfg)
    student = student if teacher is not None else None
    return _training(cfg, "probe", text, cfg.probe, student, teacher, trials=trials, workers=1)


def _training(
    cfg: RunConfig,
    stage: str,
    text: str,
    training: TrainingConfig,
    sizes: ModelShape | None,
    teacher: ModelShape | None,
    *,
    trained: float = 1.0,
    trials: int | None = None,
    workers: int | None = None,
    mixed: bool = False,
    probing: bool = False,
) -> Work:
    length = cfg.corpora.sequence_length
    steps = training.num_steps(length)
    need = None
    if sizes is not None:
        setup = TrainingSetup(
            rows=training.micro_batch_size,
            length=length,
            workers=workers or cfg.cluster.num_workers,
            zero_stage=training.zero_stage,
            bytes_per_param=WIDTHS[training.precision],
            trained=trained,
            teacher=teacher,
            mixed=mixed,
            probing=probing,
            checkpointing=training.activation_checkpointing,
            offload=(training.offload.optimizer, training.offload.parameters),
            device="cuda" if cfg.cluster.gpus_per_worker else "cpu",
        )
        need = training_need(sizes, setup)
    tokens = steps * training.global_batch_size * length
    shares = mean_shares(training, steps)
    streams = {name: round(share * tokens) for name, share in shares.items()}
    if trials is not None:
        at_once = min(cfg.probe.max_concurrent_trials or cfg.cluster.num_workers, trials)
    else:
        at_once = cfg.cluster.num_workers
    work = Work(stage, text, tokens, steps, trials=trials, streams=streams, need=need)
    return replace(work, workers=at_once)


def _targets(cfg: RunConfig, serving: CachedServing, teacher: ModelShape | None) -> Work:
    """Every token supervised and no row read twice: what data and schedule make of it is less."""
    targets, length = serving.targets, cfg.corpora.sequence_length
    k = targets.k if isinstance(targets, TopKTargets) else targets.num_samples
    trained = cfg.distill.num_steps(length) * cfg.distill.global_batch_size * length
    held_out = len(cfg.streams()) * cfg.distill.num_validation_rows * length
    tokens = trained + _checkpoints_measured(cfg) * held_out
    text = f"{targets.kind} of {k}, for at most {tokens:,} tokens"
    need = _serving_need(cfg, teacher, True, "cuda" if cfg.cluster.gpus_per_worker else "cpu")
    room = targets_bytes(tokens, k)
    return Work("targets", text, need=need, workers=serving.num_actors, disk_bytes=room)


def _frozen_student(cfg: RunConfig) -> Work:
    """The control's losses, by which samples are weighted, kept as targets of one id a token."""
    length = cfg.corpora.sequence_length
    tokens = cfg.distill.num_steps(length) * cfg.distill.global_batch_size * length
    tokens += len(cfg.streams()) * cfg.distill.num_validation_rows * length
    text = f"losses of the control, for at most {tokens:,} tokens"
    return Work("frozen-student", text, disk_bytes=targets_bytes(tokens, 1))


def _pool(cfg: RunConfig, pool: PoolServing, teacher: ModelShape | None) -> Work:
    device = "cuda" if pool.gpus_per_actor else "cpu"
    need = _serving_need(cfg, teacher, not pool.is_exact, device)
    actors = f"{pool.num_actors} actor{'s' * (pool.num_actors > 1)} beside the workers"
    text = f"teacher pool: {actors}, {pool.targets.kind} targets"
    return Work("distill", text, need=need, workers=pool.num_actors, beside=True)


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
        bytes_per_param=WIDTHS[cfg.distill.precision],
        is_sparse=is_sparse,
        device=device,
    )


def _head(teacher: ModelShape | None) -> ModelShape | None:
    """What of a teacher is in each worker when a pool sends its hidden states."""
    if teacher is None:
        return None
    return replace(teacher, parameters=teacher.vocabulary * teacher.hidden)


def _part(teacher: ModelShape | None, workers: int) -> ModelShape | None:
    """What of a teacher is in each of the workers that share it: its output weights stay whole."""
    if teacher is None:
        return None
    head = teacher.vocabulary * teacher.hidden
    return replace(teacher, parameters=head + -(-(teacher.parameters - head) // workers))


def _checkpoints_measured(cfg: RunConfig) -> int:
    """Teacher checkpoints that held-out rows are asked of, at most."""
    recipes = [t.recipes[-1:] for t in cfg.teachers]
    rungs = [cfg.adapt.recipes[name].num_checkpoints for last in recipes for name in last]
    longest = 1 if cfg.distill.schedule.kind == "fixed" else max(rungs, default=1)
    return longest + len(cfg.teachers) - 1


def largest_teacher(cfg: RunConfig) -> ModelShape | None:
    """The teacher that takes the most memory, or None where a size isn't known before loading."""
    known = _known(cfg, [teacher.name for teacher in cfg.teachers])
    return max(known, key=lambda s: s.parameters) if known else None


def _teaching(cfg: RunConfig) -> ModelShape | None:
    """What is beside the student: the largest teacher, or all that teach at once.

    Of several, the sum is that of parameters, and of the output weights that stay whole.
    """
    several = cfg.distill.ensemble
    if several is None:
        return largest_teacher(cfg)
    known = _known(cfg, several.teachers or [teacher.name for teacher in cfg.teachers])
    if not known:
        return None
    parameters, hidden = (
        sum(getattr(s, field) for s in known) for field in ("parameters", "hidden")
    )
    return replace(known[0], parameters=parameters, hidden=hidden)


def _known(cfg: RunConfig, names: Sequence[str]) -> list[ModelShape]:
    """The sizes of some teachers; none unless all are known."""
    sizes = [_sizes(cfg, cfg.teacher(name).model) for name in names]
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else []


def _sizes(cfg: RunConfig, model: ModelSource) -> ModelShape | None:
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
