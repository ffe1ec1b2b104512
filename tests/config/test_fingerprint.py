"""What enters a fingerprint is said at each field."""

import pytest
from pydantic import BaseModel
from tiny_run import config

from distill_ray.config import RunConfig
from distill_ray.config.data import TaskConfig
from distill_ray.config.fingerprint import (
    NotInArm,
    NotInFingerprint,
    NotInStudy,
    OnlyWithTeacher,
    identity,
    identity_without,
)
from distill_ray.config.probe import ProbeConfig
from distill_ray.config.selection import AuditConfig
from distill_ray.config.serving import CachedServing, PoolServing
from distill_ray.config.training import DistillConfig

NEVER = {
    DistillConfig: {"save_steps", "select_checkpoint"},
    PoolServing: {
        "num_actors", "cpus_per_actor", "gpus_per_actor", "lookahead", "num_parity_rows",
    },
    CachedServing: {"num_actors", "rows_per_file"},
    ProbeConfig: {
        "seeds", "race", "max_concurrent_trials", "control_token_budget", "num_gradients",
    },
    AuditConfig: {
        "num_text_rows", "num_generated", "min_actors", "max_actors", "cpus_per_actor",
        "gpus_per_actor", "questions_per_chunk", "max_attempts",
    },
    TaskConfig: {"max_examples"},
    RunConfig: {"storage", "cluster"},
}  # fmt: skip
ONLY_WITH_TEACHER = {
    DistillConfig: {
        "objective", "serving", "first_teacher", "schedule", "ensemble", "reassess", "progress",
        "on_switch",
    },
    ProbeConfig: {"objective"},
}  # fmt: skip
NOT_IN_STUDY = {
    "serving", "schedule", "reassess", "eval_steps", "save_steps", "zero_stage", "offload",
}  # fmt: skip
NOT_IN_ARM = {"progress", "on_switch"}
ALWAYS = {
    PoolServing: {"kind", "targets"},
    CachedServing: {"kind", "targets"},
    AuditConfig: {"num_bins", "num_bootstrap", "confidence"},
}


def marked(section: type[BaseModel], mark: type) -> set[str]:
    return {
        name
        for name, field in section.model_fields.items()
        if any(isinstance(one, mark) for one in field.metadata)
    }


@pytest.mark.parametrize("section", NEVER, ids=lambda s: s.__name__)
def test_both_kinds_of_fields_are_listed_here(section: type[BaseModel]) -> None:
    assert marked(section, NotInFingerprint) == NEVER[section]
    assert marked(section, OnlyWithTeacher) == ONLY_WITH_TEACHER.get(section, set())
    if section in ALWAYS:
        assert set(section.model_fields) - NEVER[section] == ALWAYS[section]


def test_marked_fields_change_no_identity_and_others_do(tmp_path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path)).distill
    unmarked = identity(cfg)
    assert identity(cfg.model_copy(update={"save_steps": 7})) == unmarked
    assert identity(cfg.model_copy(update={"token_budget": 7})) != unmarked
    assert identity(cfg.model_copy(update={"first_teacher": "wide"})) != unmarked
    pool, two = PoolServing(), PoolServing(num_actors=2)
    assert identity(cfg.model_copy(update={"serving": pool})) == identity(
        cfg.model_copy(update={"serving": two})
    ), "also in a section below"


def test_whole_sections_enter_with_their_marked_fields(tmp_path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path))
    assert identity(cfg, whole_sections=True) == cfg.model_dump(
        mode="json", exclude={"storage", "cluster"}
    )


def test_without_a_teacher_only_the_rest_counts(tmp_path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path)).distill
    control = identity(cfg, has_teacher=False)
    assert set(DistillConfig.model_fields) - set(control) == (
        NEVER[DistillConfig] | ONLY_WITH_TEACHER[DistillConfig]
    )
    changed = cfg.model_copy(update={"first_teacher": "wide"})
    assert identity(changed, has_teacher=False) == control


def test_a_study_leaves_out_what_one_worker_and_its_own_teaching_decide(tmp_path) -> None:
    cfg = RunConfig.model_validate(config(tmp_path)).distill
    assert marked(DistillConfig, NotInStudy) == NOT_IN_STUDY
    assert marked(DistillConfig, NotInArm) == NOT_IN_ARM
    for excluded, names in (
        ((NotInStudy,), NOT_IN_STUDY),
        ((NotInStudy, NotInArm), NOT_IN_STUDY | NOT_IN_ARM),
    ):
        assert identity_without(cfg, *excluded) == cfg.model_dump(mode="json", exclude=names)
