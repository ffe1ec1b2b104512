"""ShardSet, TeacherSet, Ranking → Student: the distillation, and its control without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from distill_ray.config.errors import InputError, Problem
from distill_ray.config.schedule import scheduling
from distill_ray.config.several import SEVERAL
from distill_ray.config.training import DistillConfig, without
from distill_ray.core.plugins import own_functions
from distill_ray.core.schedule import Reassessment, Rules, Smoothing
from distill_ray.engine.job import Job, TeachingSpec
from distill_ray.engine.session import AtSwitch
from distill_ray.engine.several import Together
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.adapt import TeacherSet, softened
from distill_ray.stages.anchor import is_weighted, with_anchor
from distill_ray.stages.domains import members_of, together_of
from distill_ray.stages.local_files import SWITCHES
from distill_ray.stages.order import Order
from distill_ray.stages.rank import Ranking
from distill_ray.stages.rows import data_spec
from distill_ray.stages.shard import ShardSet
from distill_ray.stages.targets import with_targets

VERSION = 3
HOW_SERVED = {"actors", "cpus_per_actor", "gpus_per_actor", "lookahead", "parity_rows"}
NOT_IN_RESULT: dict[str, Any] = {
    "save_every": True,
    "keep": True,
    "serving": {*HOW_SERVED, "rows_per_file"},
}
"""Keys of the config that change how the student is trained, but not what comes out."""
OF_THE_TEACHER = {
    *("objective", "serving", "first", "schedule", "several", "reassess", "progress", "at_switch"),
    *("save_every", "keep"),
}
"""Keys that say nothing to a training without one, or change nothing of what comes out."""


@dataclass(frozen=True)
class Student:
    """A trained student."""

    order: Order

    @property
    def ref(self) -> ModelRef:
        """Its weights."""
        return self.order.kept_ref()

    @property
    def curve(self) -> dict[str, Any]:
        """`history`, `switches`, `initial_loss`, `schedule`, `taught`."""
        return self.order.curve()

    @property
    def switch_log(self) -> list[dict[str, Any]]:
        """Every switch and assessment, as `engine.session.Teaching.switch_log`."""
        return list(self.order.artifact.read_json(SWITCHES))

    @property
    def fingerprint(self) -> str:
        """Identity of its weights."""
        return f"{self.order.artifact.fingerprint}/{self.order.kept()}"

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
    """Train both, or find them trained: in one group of workers, unless one needs the other."""
    control = _control(run, shards, teachers)
    distilled = _distilled(run, shards, teachers, ranking, control)
    if distilled.artifact.done() and control.artifact.done():
        run.reused("distill")
    else:
        with run.stage("distill"):
            _train(run, teachers, distilled, control)
    return Students(Student(distilled), Student(control))


def _train(run: Run, teachers: TeacherSet, distilled: Order, control: Order) -> None:
    from distill_ray.stages.training import train

    if is_weighted(distilled):
        if not control.artifact.done():
            train(run, [control])
        distilled = with_anchor(run, distilled, control)
    train(run, [with_targets(run, distilled, teachers.fingerprints()), control])


def _distilled(
    run: Run, shards: ShardSet, teachers: TeacherSet, ranking: Ranking, control: Order
) -> Order:
    cfg = run.cfg.distill
    together = together_of(run.cfg, ranking)
    teaching = teaching_of(cfg, teachers, ranking, first_of(cfg, ranking), together)
    own = [cfg.objective.divergence, cfg.objective.weighting, scheduling(cfg.schedule)[0]]
    own += [] if together is None else [together.strategy]
    identity: dict[str, Any] = {
        "teachers": teachers.fingerprints(),
        "ladders": {n: [r.temperature for r in rungs] for n, rungs in teaching.ladders.items()},
        "first": teaching.first,
        "ranking": teaching.ranking,
        "together": together,
        "distill": cfg.model_dump(mode="json", exclude=NOT_IN_RESULT),
        **own_functions(*own),
    }
    if cfg.objective.weighting is not None:
        identity["anchor"] = [control.artifact.fingerprint, cfg.keep]
    return _order(run, shards, teachers, "student", identity, cfg, teaching)


def first_of(cfg: DistillConfig, ranking: Ranking) -> str:
    """The teacher that begins.

    Raises:
        InputError: the one that is named can't serve.
    """
    if cfg.first is None:
        return ranking.best("early")
    if cfg.first not in ranking.serving:
        left_out = ranking.left_out.get(cfg.first, "")
        why = "; ".join(ranking.marks.get(cfg.first, [left_out]))
        problem = Problem("distill.first", f"{cfg.first} can't serve: {why}.")
        raise InputError("nobody is there to begin:", [problem])
    return cfg.first


def _control(run: Run, shards: ShardSet, teachers: TeacherSet) -> Order:
    training = unaided(run)
    identity = {"distill": training.model_dump(mode="json", exclude=OF_THE_TEACHER)}
    return _order(run, shards, teachers, "control", identity, training, None)


def unaided(run: Run) -> DistillConfig:
    """A plain fine-tune with equal tokens, steps and learning rates, and no teacher.

    Prompts without labels say nothing without a teacher, so the control spends their share of the
    tokens on the other rows: the strongest use that it can make of them.
    """
    cfg = run.cfg.distill
    return without(cfg, {task.prompts_stream for task in run.cfg.tasks})


def teaching_of(
    cfg: DistillConfig,
    teachers: TeacherSet,
    ranking: Ranking,
    first: str,
    together: Together | None = None,
) -> TeachingSpec:
    """The ladders of all teachers that may serve, and what changes the checkpoint.

    Args:
        cfg: the schedule, and what goes with it.
        teachers: all that there are.
        ranking: of them.
        first: the teacher that begins, where one teaches at a time.
        together: how several do.
    """
    (schedule, options), reassess, several = scheduling(cfg.schedule), cfg.reassess, cfg.several
    names = ranking.serving if several is None else members_of(several, ranking)
    chosen = {n: teachers.teachers[n] for n in names}
    soft = ranking.temperatures if cfg.objective.calibrate else {}
    return TeachingSpec(
        ladders={n: softened(t.ladder, soft.get(n, 1.0)) for n, t in chosen.items()},
        first=first if several is None else SEVERAL,
        schedule=schedule,
        options=options,
        ranking=ranking.weighted,
        rules=Rules(
            Reassessment(reassess.at_progress, reassess.margin),
            Smoothing(cfg.progress.smoothing, cfg.progress.monotone),
        ),
        together=together,
    )


def at_switch_of(cfg: DistillConfig, sequence_length: int) -> AtSwitch:
    """What happens to the optimiser at a switch, in steps."""
    return AtSwitch(
        reset=cfg.at_switch.optimizer == "reset",
        warmup=round(cfg.at_switch.warmup * cfg.num_steps(sequence_length)),
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
        at_switch=at_switch_of(training, data.sequence_length),
        lora=cfg.distill.lora,
        rungs=cfg.distill.checkpoints,
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
