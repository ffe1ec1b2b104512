"""ShardSet, TeacherSet, Ranking → Student: the distillation, and its control without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.config.several import SEVERAL
from distill_ray.config.training import DistillConfig
from distill_ray.core.plugins import source_digest
from distill_ray.core.schedule import Reassessment, Rules, Smoothing
from distill_ray.engine.job import Job, TeachingSpec
from distill_ray.engine.session import AtSwitch
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet, softened
from distill_ray.stages.domains import members_of, together_of
from distill_ray.stages.order import Order
from distill_ray.stages.rank import Ranking
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet
from distill_ray.stages.targets import with_targets

VERSION = 2
HOW_SERVED = {"actors", "cpus_per_actor", "gpus_per_actor", "lookahead", "parity_rows"}
NOT_IN_RESULT: dict[str, Any] = {"save_every": True, "serving": {*HOW_SERVED, "rows_per_file"}}
"""Keys of the config that change how the student is trained, but not what comes out."""


@dataclass(frozen=True)
class Student:
    """A trained student."""

    order: Order

    @property
    def ref(self) -> ModelRef:
        """Its weights."""
        return self.order.rung_refs()[-1]

    @property
    def curve(self) -> dict[str, Any]:
        """`history`, `switches`, `initial_loss`, `schedule`, `taught`."""
        return self.order.curve()

    @property
    def fingerprint(self) -> str:
        """Identity of its weights."""
        return self.order.artifact.fingerprint

    @property
    def teacher(self) -> str:
        """The teacher at the end of training; of several, the one that taught the most tokens."""
        curve = self.curve
        if curve["schedule"]["teacher"] != SEVERAL:
            return str(curve["schedule"]["teacher"])
        taught: dict[str, float] = curve["taught"]
        return max(taught, key=lambda name: taught[name])


@dataclass(frozen=True)
class Students:
    """The distilled student, and the same student fine-tuned without a teacher."""

    distilled: Student
    control: Student

    @property
    def artifacts(self) -> list[Artifact]:
        """What the stage left."""
        return [self.distilled.order.artifact, self.control.order.artifact]


def distill(run: Run, shards: ShardSet, teachers: TeacherSet, ranking: Ranking) -> Students:
    """Train both, in one group of workers, or find them trained."""
    orders = [_distilled(run, shards, teachers, ranking), _control(run, shards, teachers)]
    if all(order.artifact.done() for order in orders):
        run.reused("distill")
    else:
        from distill_ray.stages.training import train

        with run.stage("distill"):
            train(run, [with_targets(run, order, teachers.fingerprints()) for order in orders])
    return Students(*map(Student, orders))


def _distilled(run: Run, shards: ShardSet, teachers: TeacherSet, ranking: Ranking) -> Order:
    cfg = run.cfg.distill
    teaching = _teaching(run, teachers, ranking)
    identity = {
        "teachers": teachers.fingerprints(),
        "ladders": {n: [r.temperature for r in rungs] for n, rungs in teaching.ladders.items()},
        "first": teaching.first,
        "ranking": teaching.ranking,
        "together": [teaching.together, _own_source(teaching)],
        "distill": cfg.model_dump(mode="json", exclude=NOT_IN_RESULT),
    }
    return _order(run, shards, teachers, "student", identity, cfg, teaching)


def _own_source(teaching: TeachingSpec) -> str | None:
    """What identifies a strategy that isn't ours."""
    strategy = "" if teaching.together is None else teaching.together.strategy
    return source_digest(strategy) if ":" in strategy else None


def _control(run: Run, shards: ShardSet, teachers: TeacherSet) -> Order:
    """A plain fine-tune with equal tokens, steps and learning rates, and no teacher.

    Prompts without labels say nothing without a teacher, so the control spends their share of the
    tokens on the other rows: the strongest use that it can make of them.
    """
    cfg = run.cfg.distill
    prompts = {task.prompts_stream for task in run.cfg.tasks}
    supervised = {stream: share for stream, share in cfg.mix.items() if stream not in prompts}
    training = cfg.model_copy(update={"mix": supervised or cfg.mix})
    keys = ("objective", "serving", "schedule", "reassess", "progress", "at_switch", "save_every")
    excluded = {*keys, "several"}
    identity = {"distill": training.model_dump(mode="json", exclude=excluded)}
    return _order(run, shards, teachers, "control", identity, training, None)


def _teaching(run: Run, teachers: TeacherSet, ranking: Ranking) -> TeachingSpec:
    cfg = run.cfg.distill
    schedule, reassess, several = cfg.schedule, cfg.reassess, cfg.several
    names = ranking.serving if several is None else members_of(several, ranking)
    chosen = {n: teachers.teachers[n] for n in names}
    soft = ranking.temperatures if run.cfg.distill.objective.calibrate else {}
    return TeachingSpec(
        ladders={n: softened(t.ladder, soft.get(n, 1.0)) for n, t in chosen.items()},
        first=ranking.best("early") if several is None else SEVERAL,
        schedule=schedule.kind,
        options=schedule.model_dump(exclude={"kind"}),
        ranking=ranking.weighted,
        rules=Rules(
            Reassessment(reassess.at_progress, reassess.margin),
            Smoothing(cfg.progress.smoothing, cfg.progress.monotone),
        ),
        together=together_of(run.cfg, ranking),
    )


def _order(
    run: Run,
    shards: ShardSet,
    teachers: TeacherSet,
    name: str,
    extra: dict[str, Any],
    training: DistillConfig,
    teaching: TeachingSpec | None,
) -> Order:
    cfg = run.cfg
    data = data_spec(shards, cfg.seed, cfg.distill.validation_rows)
    job = Job(
        name=name,
        student=teachers.student.ref,
        training=training,
        data=data,
        objective=cfg.distill.objective if teaching else None,
        teaching=teaching,
        at_switch=AtSwitch(
            reset=training.at_switch.optimizer == "reset",
            warmup=round(training.at_switch.warmup * training.num_steps(data.sequence_length)),
        ),
        lora=cfg.distill.lora,
        validate_every=cfg.distill.validate_every,
    )
    identity = {
        "version": VERSION,
        "student": teachers.student.fingerprint,
        "shard": shards.artifact.fingerprint,
        "seed": cfg.seed,
        **extra,
    }
    artifact = run.artifact("distill", name, identity)
    serving = cfg.distill.serving
    return Order("distill", job, artifact, shards.artifact, cfg.distill.save_every, serving)
