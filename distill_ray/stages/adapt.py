"""ShardSet, teachers → TeacherSet: each teacher trained on the domain, its checkpoints kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill_ray.config.fingerprint import fingerprint, path_identity
from distill_ray.config.models import ModelSource, TeacherConfig
from distill_ray.engine.job import DataSpec, Job
from distill_ray.models.packages import file_of
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.order import Order
from distill_ray.stages.shard import ShardSet

VERSION = 1


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to serve."""

    name: str
    rungs: list[ModelRef]
    """Every checkpoint of its last recipe, in order of training."""
    losses: list[float | None]
    """Validation loss at each rung; None for a teacher that was not trained here."""
    best: int
    """The rung with the least validation loss."""
    fingerprint: str

    @property
    def ladder(self) -> list[ModelRef]:
        """The rungs that may serve: up to the best one."""
        return self.rungs[: self.best + 1]


@dataclass(frozen=True)
class TeacherSet:
    """All teachers of a run."""

    teachers: dict[str, Teacher]
    curves: dict[str, list[dict[str, Any]]]
    """Teacher → the curve of each of its recipes."""
    artifacts: list[Artifact]
    """What the stage left: one for each recipe on each model."""

    def fingerprints(self) -> dict[str, str]:
        """Teacher → identity of its weights."""
        return {name: teacher.fingerprint for name, teacher in self.teachers.items()}


def adapt(run: Run, shards: ShardSet) -> TeacherSet:
    """Train every teacher by its recipes, or find it trained."""
    phases = {t.name: _phases(run, shards, t) for t in run.cfg.teachers}
    orders = {order.artifact.path: order for chain in phases.values() for order in chain}
    if all(order.artifact.done() for order in orders.values()):
        run.reused("adapt")
    else:
        from distill_ray.stages.training import train

        with run.stage("adapt"):
            train(run, [*orders.values()])
    teachers = {t.name: _teacher(shards, t, phases[t.name]) for t in run.cfg.teachers}
    curves = {name: [order.curve() for order in chain] for name, chain in phases.items()}
    return TeacherSet(teachers, curves, [order.artifact for order in orders.values()])


def data_spec(shards: ShardSet, seed: int, validation_rows: int) -> DataSpec:
    """Where a job's rows are; folders are filled in on the worker."""
    cfg = shards.cfg
    return DataSpec(
        folder=Path(),
        cache=Path(),
        kinds=cfg.streams(),
        sequence_length=cfg.corpora.sequence_length,
        seed=seed,
        validation_rows=validation_rows,
        vocabulary=shards.counts["tokenizer"]["vocab_size"],
    )


def source_identity(source: ModelSource) -> dict[str, Any]:
    """What identifies a model's weights."""
    place = source.path or source.gguf
    files = path_identity(file_of(place)) if place else None
    return {"source": source.model_dump(mode="json"), "files": files}


def _phases(run: Run, shards: ShardSet, teacher: TeacherConfig) -> list[Order]:
    """One order for each recipe; two teachers that begin alike share those artifacts."""
    ref = _raw(shards, teacher)
    made_from: Mapping[str, Any] = source_identity(teacher.model)
    orders = []
    for name in teacher.recipes:
        order = _order(run, shards, teacher.name, name, ref, made_from)
        ref = order.rung_refs()[-1]
        made_from = {"phase": order.artifact.fingerprint}
        orders.append(order)
    return orders


def _raw(shards: ShardSet, teacher: TeacherConfig) -> ModelRef:
    return ModelRef.of(teacher.model, shards.counts["tokenizer"])


def _order(
    run: Run,
    shards: ShardSet,
    teacher: str,
    name: str,
    ref: ModelRef,
    made_from: Mapping[str, Any],
) -> Order:
    cfg, recipe = run.cfg, run.cfg.adapt.recipes[name]
    identity = {
        "version": VERSION,
        "model": made_from,
        "shard": shards.artifact.fingerprint,
        "recipe": recipe,
        "validation_rows": cfg.adapt.validation_rows,
        "seed": cfg.seed,
    }
    job = Job(
        name=f"{teacher}, {name}",
        student=ref,
        training=recipe,
        data=data_spec(shards, cfg.seed, cfg.adapt.validation_rows),
        lora=recipe.lora if recipe.method == "lora" else None,
        rungs=recipe.checkpoints,
    )
    return Order(
        stage="adapt",
        job=job,
        artifact=run.artifact("adapt", name, identity),
        shards=shards.artifact,
        save_every=cfg.adapt.save_every,
    )


def _teacher(shards: ShardSet, teacher: TeacherConfig, phases: list[Order]) -> Teacher:
    if not phases:
        identity = fingerprint(source_identity(teacher.model))
        return Teacher(teacher.name, [_raw(shards, teacher)], [None], 0, identity)
    last = phases[-1]
    losses = last.rung_losses()
    best = min(range(len(losses)), key=lambda i: losses[i])
    return Teacher(teacher.name, last.rung_refs(), [*losses], best, last.artifact.fingerprint)
