"""ShardSet, teachers → TeacherSet: each teacher trained on the domain, its checkpoints kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill_ray.config.fingerprint import fingerprint
from distill_ray.config.models import ModelSource, TeacherConfig
from distill_ray.engine.job import Job
from distill_ray.models.identity import source_identity
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.order import Order
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet

VERSION = 2
STUDENT = "student"


@dataclass(frozen=True)
class Weights:
    """A model as it enters a stage."""

    ref: ModelRef
    fingerprint: str


@dataclass(frozen=True)
class Teacher:
    """A teacher ready to serve."""

    name: str
    raw: Weights
    """As it came, before any recipe."""
    rungs: list[ModelRef]
    """Every checkpoint of its last recipe, in order of training; the raw model without one."""
    losses: list[float | None]
    """Validation loss at each rung; None for a teacher that was not trained here."""
    best: int
    """The rung that serves: the config's choice, else the one with the least validation loss."""
    fingerprint: str
    """Identity of its rungs."""
    gained: bool = True
    """Whether its adaptation was worth it; else it serves as it came."""

    @property
    def ladder(self) -> list[ModelRef]:
        """The rungs that may serve: up to the best one, or the raw model alone."""
        return self.rungs[: self.best + 1] if self.gained else [self.raw.ref]

    @property
    def serving(self) -> Weights:
        """The checkpoint that is audited and probed."""
        return self.adapted if self.gained else self.raw

    @property
    def adapted(self) -> Weights:
        """Its best checkpoint, whether or not it gained."""
        return Weights(self.rungs[self.best], f"{self.fingerprint}/{self.best}")

    @property
    def is_trained(self) -> bool:
        """Whether it has been through a recipe."""
        return self.losses[0] is not None


@dataclass(frozen=True)
class TeacherSet:
    """All teachers of a run that can serve, and the student that they will teach."""

    student: Weights
    """The initial student."""
    teachers: dict[str, Teacher]
    curves: dict[str, list[dict[str, Any]]]
    """Teacher → the curve of each of its recipes."""
    artifacts: list[Artifact]
    """What the stage left: one for each recipe on each model, and the gains."""
    gains: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Trained teacher → `gained`, and adapted minus raw with intervals (see `gain.Gain`)."""
    failed: dict[str, str] = field(default_factory=dict)
    """Teacher that was left out → why."""

    def fingerprints(self) -> dict[str, str]:
        """Teacher → identity of its weights."""
        return {
            n: t.fingerprint if t.gained else t.raw.fingerprint for n, t in self.teachers.items()
        }


def adapt(run: Run, shards: ShardSet) -> TeacherSet:
    """Train every teacher by its recipes, and the student by its own, or find them trained."""
    cfg = run.cfg
    phases = {t.name: _phases(run, shards, t.name, t.model, t.recipes) for t in cfg.teachers}
    phases[STUDENT] = _phases(run, shards, STUDENT, cfg.student.model, cfg.student.recipes)
    orders = {order.artifact.path: order for chain in phases.values() for order in chain}
    if all(order.artifact.done() for order in orders.values()):
        run.reused("adapt")
    else:
        from distill_ray.stages.training import train

        with run.stage("adapt"):
            train(run, [*orders.values()])
    raw = {name: _raw(shards, model) for name, model in _models(run).items()}
    return TeacherSet(
        student=_student(raw[STUDENT], phases[STUDENT]),
        teachers={t.name: _teacher(t, raw[t.name], phases[t.name]) for t in cfg.teachers},
        curves={t.name: [order.curve() for order in phases[t.name]] for t in cfg.teachers},
        artifacts=[order.artifact for order in orders.values()],
    )


def _models(run: Run) -> dict[str, ModelSource]:
    return {STUDENT: run.cfg.student.model, **{t.name: t.model for t in run.cfg.teachers}}


def _raw(shards: ShardSet, source: ModelSource) -> Weights:
    ref = ModelRef.of(source, shards.counts["tokenizer"])
    return Weights(ref, fingerprint(source_identity(source)))


def _phases(
    run: Run, shards: ShardSet, model: str, source: ModelSource, recipes: Sequence[str]
) -> list[Order]:
    """One order for each recipe; two models that begin alike share those artifacts."""
    ref = _raw(shards, source).ref
    made_from: Mapping[str, Any] = source_identity(source)
    orders = []
    for name in recipes:
        order = _order(run, shards, model, name, ref, made_from)
        ref = order.best_ref()
        made_from = {"phase": order.artifact.fingerprint}
        orders.append(order)
    return orders


def _order(
    run: Run,
    shards: ShardSet,
    model: str,
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
        name=f"{model}, {name}",
        student=ref,
        training=recipe,
        data=data_spec(shards, cfg.seed, cfg.adapt.validation_rows),
        lora=recipe.lora if recipe.method == "lora" else None,
        rungs=recipe.checkpoints,
        patience=recipe.patience,
    )
    return Order(
        stage="adapt",
        job=job,
        artifact=run.artifact("adapt", name, identity),
        shards=shards.artifact,
        save_every=cfg.adapt.save_every,
    )


def _student(raw: Weights, phases: Sequence[Order]) -> Weights:
    if not phases:
        return raw
    return Weights(phases[-1].best_ref(), phases[-1].artifact.fingerprint)


def _teacher(cfg: TeacherConfig, raw: Weights, phases: Sequence[Order]) -> Teacher:
    if not phases:
        return Teacher(cfg.name, raw, [raw.ref], [None], 0, raw.fingerprint)
    last = phases[-1]
    losses = last.rung_losses()
    best = min(range(len(losses)), key=lambda i: losses[i])
    if cfg.checkpoint is not None:  # Training may have stopped before it.
        best = min(cfg.checkpoint, len(losses)) - 1
    return Teacher(cfg.name, raw, last.rung_refs(), [*losses], best, last.artifact.fingerprint)


def softened(ladder: Sequence[ModelRef], temperature: float) -> list[ModelRef]:
    """The same checkpoints, which as teachers divide their logits by a temperature."""
    return [replace(rung, temperature=temperature) for rung in ladder]
