"""Selection → arms: who teaches in each, and its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from statistics import fmean

from distill_ray.config.fingerprint import NotInArm, NotInStudy, identity_without
from distill_ray.config.study import ArmConfig
from distill_ray.config.training import DistillConfig
from distill_ray.core.plugins import own_functions
from distill_ray.core.schedule import Checkpoint
from distill_ray.engine.job import OnSwitch, TeachingSpec
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import Selection
from distill_ray.stages.results.teacher_set import softened
from distill_ray.stages.results.trial import SaveOptions, Trial, TrialSpec, trial
from distill_ray.stages.training.teaching import control_config, on_switch_of, teaching_of
from distill_ray.study.common import data_seed

VERSION = 1
CONTROL = "control"


@dataclass(frozen=True)
class Arm:
    """One way to use the token budget."""

    name: str
    cfg: DistillConfig
    teaching: TeachingSpec | None = None
    """None trains without a teacher."""
    static: Checkpoint | None = None
    """The only checkpoint that teaches, where a user could choose it."""

    @property
    def weighted(self) -> bool:
        """Whether samples are weighted, which needs the trained control."""
        return self.teaching is not None and self.cfg.objective.weighting is not None

    @property
    def measures(self) -> bool:
        """Whether the student's progress decides who teaches."""
        rules = None if self.teaching is None else self.teaching.rules.reassessment
        return rules is not None and bool(rules.at_progress)

    @property
    def changes(self) -> bool:
        """Whether the teaching checkpoint may change."""
        return self.teaching is not None and (self.measures or self.teaching.schedule != "fixed")

    def settings(self) -> dict[str, object]:
        """The settings that tell the arm from others, for a reader."""
        if self.teaching is None:
            return {}
        settings: dict[str, object] = {
            "first_teacher": self.teaching.first_teacher,
            "schedule": self.teaching.schedule,
        }
        settings |= {k: v for k, v in self.teaching.options.items() if v is not None}
        if self.measures:
            settings["reassess"] = self.cfg.reassess.model_dump(mode="json")
        if self.cfg.objective.weighting is not None:
            settings["weighting"] = self.cfg.objective.weighting
        switch = self.cfg.on_switch.model_dump(mode="json")
        return settings | ({"on_switch": switch} if self.changes else {})


def arms_of(
    run: Run, selection: Selection, configured: Mapping[str, tuple[ArmConfig, DistillConfig]]
) -> dict[str, Arm]:
    """The control, every static choice, and the configured arms.

    Args:
        run: a domain's run.
        selection: the results up to `rank`.
        configured: arm → its config, and its `distill` section.
    """
    arms = {CONTROL: Arm(CONTROL, control_config(run))}
    objective = run.cfg.distill.objective.model_copy(update={"weighting": None})
    cfg = run.cfg.distill.model_copy(update={"objective": objective})
    for teacher in selection.ranking.eligible:
        for checkpoint_index in range(len(selection.teachers.teachers[teacher].checkpoints)):
            name = f"{teacher} {checkpoint_index + 1}"
            spec = _single_checkpoint(selection, cfg, teacher, checkpoint_index)
            arms[name] = Arm(name, cfg, spec, static=(teacher, checkpoint_index))
    for name, (arm, distill) in configured.items():
        arms[name] = Arm(name, distill, _teaching(selection, arm, distill))
    return arms


def most_accurate_teacher(selection: Selection) -> str:
    """The teacher whose best checkpoint is the most accurate on the validation questions."""

    def accuracy(name: str) -> float:
        tasks = selection.audited.rows[name].tasks.values()
        return fmean(task.accuracy.value for task in tasks)

    return max(selection.ranking.eligible, key=accuracy)


def _teaching(selection: Selection, arm: ArmConfig, cfg: DistillConfig) -> TeachingSpec:
    """The checkpoints that the arm's schedule may reach."""
    first = (
        most_accurate_teacher(selection)
        if arm.first_teacher == "most_accurate"
        else selection.ranking.best(arm.first_teacher)
    )
    if cfg.schedule.kind == "ranked" or cfg.reassess.at_progress:
        return teaching_of(cfg, selection.teachers, selection.ranking, first)
    if cfg.schedule.kind == "fixed":
        return _single_checkpoint(
            selection, cfg, first, len(selection.teachers.teachers[first].checkpoints) - 1
        )
    spec = teaching_of(cfg, selection.teachers, selection.ranking, first)
    return TeachingSpec({first: spec.checkpoints[first]}, first, spec.schedule, spec.options)


def _single_checkpoint(
    selection: Selection, cfg: DistillConfig, teacher: str, checkpoint_index: int
) -> TeachingSpec:
    temperature = selection.ranking.temperatures[teacher] if cfg.objective.calibrate else 1.0
    checkpoint = selection.teachers.teachers[teacher].checkpoints[checkpoint_index]
    return TeachingSpec({teacher: softened([checkpoint], temperature)}, teacher)


def trial_of(
    run: Run, selection: Selection, arm: Arm, seed: int, num_checkpoints: int, control: Trial | None
) -> Trial:
    """An arm's trial with one order of the rows; arms that come to the same thing share it.

    Args:
        run: a domain's run.
        selection: the results up to `rank`.
        arm: who teaches.
        seed: seed of the order of the rows, which is the same for every arm.
        num_checkpoints: points of the trial's curve.
        control: the control of the same seed, for arms that weight samples.
    """
    cfg, teaching = arm.cfg, arm.teaching
    if teaching is None:
        label = CONTROL
    else:
        label = teaching.first_teacher if teaching.schedule == "fixed" else teaching.schedule
        label += "-weighted" if arm.weighted else ""
    distill = identity_without(cfg, NotInStudy, NotInArm)
    if teaching is None:
        del distill["objective"]
    functions: Mapping[str, object] = {}
    if teaching is not None:
        objective = cfg.objective
        functions = own_functions(objective.divergence, objective.weighting, teaching.schedule)
    if arm.weighted:
        assert control is not None
    spec = TrialSpec(
        kind="arm",
        training=cfg,
        num_validation_rows=cfg.num_validation_rows,
        num_checkpoints=num_checkpoints,
        data_seed=data_seed(run, seed),
        identity={
            "version": VERSION,
            "distill": distill,
            "teaching": _identity(selection, teaching),
            "rungs": num_checkpoints,
            **functions,
        },
        objective=cfg.objective if teaching is not None else None,
        teaching=teaching,
        lora=cfg.lora,
        on_switch=on_switch_of(cfg, run.cfg.corpora.sequence_length) if arm.changes else OnSwitch(),
        frozen_student=control.weights if control is not None and arm.weighted else None,
        eval_steps=cfg.eval_steps if arm.measures else None,
        save=SaveOptions(weights=teaching is None, answers=True),
    )
    return trial(run, selection.shards, selection.teachers.student, label, seed, spec)


def _identity(selection: Selection, spec: TeachingSpec | None) -> dict[str, object] | None:
    if spec is None:
        return None
    weights = selection.teachers.fingerprints()
    checkpoints = {}
    for name, refs in spec.checkpoints.items():
        all_refs = selection.teachers.teachers[name].checkpoints
        served = [[all_refs.index(replace(r, temperature=1.0)), r.temperature] for r in refs]
        checkpoints[name] = [weights[name], served]
    return {
        "checkpoints": checkpoints,
        "first": spec.first_teacher,
        "schedule": spec.schedule,
        "options": dict(spec.options),
        "ranking": None if spec.ranking is None else asdict(spec.ranking),
        "rules": asdict(spec.rules),
    }
