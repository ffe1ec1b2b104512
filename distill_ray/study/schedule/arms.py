"""Selection → arms: who teaches in each, and the trials that they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

from distill_ray.config.study import ArmConfig
from distill_ray.config.training import DistillConfig
from distill_ray.core.plugins import own_functions
from distill_ray.core.schedule import Checkpoint
from distill_ray.engine.job import OnSwitch, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import Selection
from distill_ray.stages.results.teacher_set import Weights, softened
from distill_ray.stages.results.trial import SaveOptions, Trial, TrialSpec, trial
from distill_ray.stages.training.teaching import control_config, on_switch_of, teaching_of
from distill_ray.study.common import order_of

VERSION = 1
CONTROL = "control"
NOT_HERE: dict[str, Any] = {
    **dict.fromkeys(("serving", "save_steps", "zero_stage", "offload"), True),
    **dict.fromkeys(("schedule", "reassess", "progress", "on_switch", "eval_steps"), True),
}
"""Keys of `distill` that say nothing on one worker, or that the teaching says."""


@dataclass(frozen=True)
class Arm:
    """One way to use the tokens."""

    name: str
    cfg: DistillConfig
    teaching: TeachingSpec | None = None
    """None trains without a teacher."""
    static: Checkpoint | None = None
    """The one checkpoint that teaches throughout, where a user could have chosen it."""

    @property
    def weighted(self) -> bool:
        """Whether samples are weighted, for which the control must have been trained."""
        return self.teaching is not None and self.cfg.objective.weighting is not None

    @property
    def measures(self) -> bool:
        """Whether the student's progress decides."""
        rules = None if self.teaching is None else self.teaching.rules.reassessment
        return rules is not None and bool(rules.at_progress)

    @property
    def changes(self) -> bool:
        """Whether another checkpoint may come to teach."""
        return self.teaching is not None and (self.measures or self.teaching.schedule != "fixed")

    def settings(self) -> dict[str, Any]:
        """What makes it one of its kind, for a reader."""
        if self.teaching is None:
            return {}
        described: dict[str, Any] = {
            "begins": self.teaching.first_teacher,
            "schedule": self.teaching.schedule,
        }
        described |= {k: v for k, v in self.teaching.options.items() if v is not None}
        if self.measures:
            described["reassess"] = self.cfg.reassess.model_dump(mode="json")
        if self.cfg.objective.weighting is not None:
            described["weighting"] = self.cfg.objective.weighting
        switch = self.cfg.on_switch.model_dump(mode="json")
        return described | ({"on_switch": switch} if self.changes else {})


def arms_of(
    run: Run, selection: Selection, wanted: Mapping[str, tuple[ArmConfig, DistillConfig]]
) -> dict[str, Arm]:
    """The control, every static choice, and the arms that are wanted.

    Args:
        run: a domain's.
        selection: the results up to `rank`.
        wanted: arm → who begins, and its `distill` section.
    """
    arms = {CONTROL: Arm(CONTROL, control_config(run))}
    objective = run.cfg.distill.objective.model_copy(update={"weighting": None})
    cfg = run.cfg.distill.model_copy(update={"objective": objective})
    for teacher in selection.ranking.serving:
        for checkpoint_index in range(len(selection.teachers.teachers[teacher].checkpoints)):
            name = f"{teacher} {checkpoint_index + 1}"
            spec = _alone(selection, cfg, teacher, checkpoint_index)
            arms[name] = Arm(name, cfg, spec, static=(teacher, checkpoint_index))
    for name, (arm, own) in wanted.items():
        arms[name] = Arm(name, own, _teaching(selection, arm, own))
    return arms


def strongest(selection: Selection) -> str:
    """The teacher whose best checkpoint answers most of the validation questions."""

    def accuracy(name: str) -> float:
        tasks = selection.audited.rows[name].tasks.values()
        return fmean(task.accuracy.value for task in tasks)

    return max(selection.ranking.serving, key=accuracy)


def _teaching(selection: Selection, arm: ArmConfig, cfg: DistillConfig) -> TeachingSpec:
    """Only the checkpoints that the schedule may climb."""
    first = (
        strongest(selection)
        if arm.first_teacher == "most_accurate"
        else selection.ranking.best(arm.first_teacher)
    )
    if cfg.schedule.kind == "ranked" or cfg.reassess.at_progress:
        return teaching_of(cfg, selection.teachers, selection.ranking, first)
    if cfg.schedule.kind == "fixed":
        return _alone(
            selection, cfg, first, len(selection.teachers.teachers[first].checkpoints) - 1
        )
    whole = teaching_of(cfg, selection.teachers, selection.ranking, first)
    options = whole.options
    return TeachingSpec({first: whole.checkpoints[first]}, first, whole.schedule, options)


def _alone(
    selection: Selection, cfg: DistillConfig, teacher: str, checkpoint_index: int
) -> TeachingSpec:
    soft = selection.ranking.temperatures[teacher] if cfg.objective.calibrate else 1.0
    chosen = selection.teachers.teachers[teacher].checkpoints[checkpoint_index]
    return TeachingSpec({teacher: softened([chosen], soft)}, teacher)


def trial_of(
    run: Run, selection: Selection, arm: Arm, seed: int, rungs: int, control: Trial | None
) -> Trial:
    """The arm with one order of the rows; arms that come to the same thing share it.

    Args:
        run: a domain's.
        selection: the results up to `rank`.
        arm: who teaches.
        seed: of the order of the rows: the same for every arm.
        checkpoints: points of its curve.
        control: of the same seed, for arms that weigh samples.
    """
    cfg, teaching = arm.cfg, arm.teaching
    silent = NOT_HERE if teaching is not None else {**NOT_HERE, "objective": True}
    plan = TrialSpec(
        kind="arm",
        training=cfg,
        num_validation_rows=cfg.num_validation_rows,
        rungs=rungs,
        order=order_of(run, seed),
        identity={
            "version": VERSION,
            "distill": cfg.model_dump(mode="json", exclude=silent),
            "teaching": _identity(selection, teaching),
            "rungs": rungs,
            **_own_functions(cfg, teaching),
        },
        objective=cfg.objective if teaching is not None else None,
        teaching=teaching,
        lora=cfg.lora,
        on_switch=on_switch_of(cfg, run.cfg.corpora.sequence_length) if arm.changes else OnSwitch(),
        frozen_student=_frozen_student(control) if arm.weighted else None,
        eval_steps=cfg.eval_steps if arm.measures else None,
        keep=SaveOptions(weights=teaching is None, answers=True),
    )
    return trial(run, selection.shards, selection.teachers.student, _label(arm), seed, plan)


def _frozen_student(control: Trial | None) -> Weights:
    assert control is not None
    return control.weights


def _label(arm: Arm) -> str:
    """Of the artifact: equal for arms that come to the same thing."""
    spec = arm.teaching
    if spec is None:
        return CONTROL
    what = spec.first_teacher if spec.schedule == "fixed" else spec.schedule
    return f"{what}-weighted" if arm.weighted else what


def _own_functions(cfg: DistillConfig, spec: TeachingSpec | None) -> dict[str, Any]:
    if spec is None:
        return {}
    return own_functions(cfg.objective.divergence, cfg.objective.weighting, spec.schedule)


def _identity(selection: Selection, spec: TeachingSpec | None) -> dict[str, Any] | None:
    if spec is None:
        return None
    weights = selection.teachers.fingerprints()
    checkpoints = {}
    for name, rungs in spec.checkpoints.items():
        all_rungs = selection.teachers.teachers[name].checkpoints
        served = [[all_rungs.index(replace(r, temperature=1.0)), r.temperature] for r in rungs]
        checkpoints[name] = [weights[name], served]
    return {
        "checkpoints": checkpoints,
        "first": spec.first_teacher,
        "schedule": spec.schedule,
        "options": dict(spec.options),
        "ranking": None if spec.ranking is None else asdict(spec.ranking),
        "rules": asdict(spec.rules),
    }
