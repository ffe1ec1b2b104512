"""Who teaches in each arm of a study, and which trainings are one and the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from stage_results import Candidate, answers, audited, probed, run_of, shard_counts, trial

from distill_ray.config.load import load_arms
from distill_ray.config.study import ScheduleStudy
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages.pipeline import Selection
from distill_ray.stages.rank import rank
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, Weights
from distill_ray.stages.results.trial import Trial
from distill_ray.study.schedule.arms import CONTROL, Arm, arms_of, most_accurate_teacher, trial_of

RIGHT = {"weak": 0.4, "strong": 0.9}
STUDENT = Weights(ModelRef("init", seed=0), "s")


def teacher(name: str, best: int) -> Teacher:
    rungs = [ModelRef("path", f"{name}-{i}") for i in range(3)]
    return Teacher(name, Weights(ModelRef("init"), "raw"), rungs, [3.0, 2.0, 2.5], best, name)


def found_of(run: Run) -> Selection:
    seen = {
        name: Candidate({"organ": answers(60, 4, 0, right=share)}, (share, share))
        for name, share in RIGHT.items()
    }
    shards = run.artifact("shard", "", {})
    shards.commit(shard_counts(), 0.0)
    teachers = TeacherSet(
        STUDENT, {"weak": teacher("weak", 1), "strong": teacher("strong", 2)}, {}, []
    )
    checked, tried = audited(run, seen), probed(run, seen)
    return Selection(ShardSet(shards, run.cfg), teachers, checked, tried, rank(run, checked, tried))


class Made:
    """A domain's arms, and the trials that they are."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.run = run_of(folder, "weak", "strong", **changes)
        self.found = found_of(self.run)
        study = ScheduleStudy(name="when", run={}, domains={"a": {}})
        self.arms = arms_of(self.run, self.found, load_arms(study, {"a": self.run.cfg})["a"])

    def trial(self, name: str, seed: int = 0, control: Trial | None = None) -> Trial:
        return trial_of(self.run, self.found, self.arms[name], seed, 1, control)

    def control(self) -> Trial:
        return trial(self.run, "arm", CONTROL, 0, {"accuracy": 0.5})

    def path(self, name: str) -> str:
        control = self.control() if self.arms[name].weighted else None
        return self.trial(name, control=control).artifact.path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("arms"))


def checkpoints(arm: Arm) -> dict[str, list[str]]:
    assert arm.teaching is not None
    return {n: [ref.location for ref in refs] for n, refs in arm.teaching.checkpoints.items()}


def test_every_checkpoint_that_may_serve_is_a_static_choice(made: Made) -> None:
    statics = {name: arm.static for name, arm in made.arms.items() if arm.static}
    rungs = [("weak", 0), ("weak", 1), ("strong", 0), ("strong", 1), ("strong", 2)]
    assert sorted(statics.values()) == sorted(rungs), "up to the best one"
    assert checkpoints(made.arms["weak 2"]) == {"weak": ["weak-1"]}


def test_the_strongest_is_the_most_accurate_on_the_validation_split(made: Made) -> None:
    assert most_accurate_teacher(made.found) == "strong"
    assert checkpoints(made.arms["most_accurate"]) == {"strong": ["strong-2"]}
    assert checkpoints(made.arms["scd"]) == {"strong": ["strong-0", "strong-1", "strong-2"]}


def test_only_schedules_that_may_change_the_teacher_have_all_ladders(made: Made) -> None:
    both = {name for name, arm in made.arms.items() if arm.teaching and len(checkpoints(arm)) == 2}
    assert both == {"ranked", "ranked-aw", "default"}
    for name in both:
        spec = made.arms[name].teaching
        assert spec is not None and spec.ranking == made.found.ranking.ranking_weights
        assert spec.first_teacher == made.found.ranking.best("early")


def test_arms_that_come_to_the_same_thing_share_a_training(made: Made) -> None:
    assert made.path("most_accurate") == made.path("strong 3")
    assert made.path("default") == made.path("ranked"), "what a run does that says nothing"
    paths = [made.path(name) for name in made.arms]
    assert len(set(paths)) == len(paths) - 2


def test_scd_and_ordered_checkpoints_reset_the_optimiser_others_keep_it(made: Made) -> None:
    switches = {
        name: made.trial(name).training_spec.on_switch
        for name in ("scd", "equal_periods", "ranked")
    }
    assert (switches["scd"].reset, switches["equal_periods"].reset) == (True, True)
    assert not switches["ranked"].reset


def test_every_arm_has_the_same_tokens_and_batches_and_another_order_each_seed(made: Made) -> None:
    jobs = [
        made.trial(name).training_spec for name in ("strong 1", "scd", "ranked", "default", CONTROL)
    ]
    assert len({job.steps for job in jobs}) == 1 and len({job.data.seed for job in jobs}) == 1
    assert {str(job.training.mix) for job in jobs[:-1]} == {str(made.run.cfg.distill.mix)}
    assert made.trial("scd", 1).training_spec.data.seed == jobs[0].data.seed + 1


def test_the_control_learns_from_labels_alone_and_its_weights_stay(made: Made) -> None:
    control = made.trial(CONTROL)
    assert control.training_spec.teaching is None and control.save.weights
    assert set(control.training_spec.training.mix) == {"organ.labelled"}
    assert not made.trial("scd").save.weights and made.trial("scd").save.answers


def test_weighted_arms_are_anchored_at_the_control_of_their_seed(made: Made) -> None:
    control = made.control()
    aw = made.trial("aw", control=control)
    assert aw.training_spec.frozen_student == control.weights.ref
    assert aw.artifact.identity["frozen_student"] == control.artifact.fingerprint
    assert made.trial("scd").training_spec.frozen_student is None


def test_progress_is_measured_only_where_it_decides(tmp_path: Path) -> None:
    made = Made(tmp_path, distill={"reassess": {"at_progress": [0.5]}, "eval_steps": 7})
    assert made.trial("default").training_spec.eval_steps == 7
    assert made.trial("ranked").training_spec.eval_steps is None, "its probes tell it"
    assert made.arms["default"].settings()["reassess"]["at_progress"] == [0.5]


def test_what_a_default_says_touches_no_other_arm(tmp_path: Path, made: Made) -> None:
    """The same artifacts are found again, in whatever folder they are."""
    changed = Made(
        tmp_path,
        distill={
            "schedule": {"kind": "ranked", "interval": 3},
            "on_switch": {"optimizer": "reset"},
            "objective": {"weighting": "adaptive"},
        },
    )
    for name in ("strong 1", "most_accurate", "equal_periods", "scd", "on_plateau", CONTROL):
        assert changed.path(name) == made.path(name), name
    assert changed.path("default") != made.path("default")
    assert changed.arms["default"].weighted


def test_settings_tell_what_makes_an_arm_one_of_its_kind(made: Made) -> None:
    assert made.arms[CONTROL].settings() == {}
    assert made.arms["aw"].settings() == {
        "first_teacher": "strong", "schedule": "fixed", "weighting": "adaptive"
    }  # fmt: skip
    ranked = made.arms["ranked"].settings()
    assert ranked["probe_steps"] == 8 and "reassess" not in ranked
