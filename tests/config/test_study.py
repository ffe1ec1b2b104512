"""From one file to the runs of a study, or to every problem in it."""

from pathlib import Path

import pytest
import yaml

from distill_ray.config import InputError
from distill_ray.config.load import load_arms, load_study
from distill_ray.config.study import ARMS, RankingStudy, ScheduleStudy

MINIMAL = yaml.safe_load((Path(__file__).parent / "minimal.yaml").read_text())
SHARED = {key: MINIMAL[key] for key in ("student", "teachers", "adapt", "probe", "distill")}
OWN = {key: MINIMAL[key] for key in ("corpora", "tasks")}


def load(tmp_path, *overrides, **changes):
    path = tmp_path / "study.yaml"
    data = {"name": "which", "run": SHARED, "domains": {"a": OWN, "b": OWN}, **changes}
    path.write_text(yaml.safe_dump(data))
    return load_study(RankingStudy, path, overrides)


def problems(tmp_path, *overrides, **changes):
    with pytest.raises(InputError) as caught:
        load(tmp_path, *overrides, **changes)
    return str(caught.value)


def test_each_domain_is_a_run_below_the_study(tmp_path):
    study, runs = load(tmp_path, storage="place")
    assert list(runs) == ["a", "b"] and study.seeds == (0, 1, 2)
    assert [(run.name, run.storage) for run in runs.values()] == [
        ("a", "place/which"), ("b", "place/which")
    ]  # fmt: skip


def test_a_remote_storage_keeps_its_query(tmp_path):
    _, runs = load(tmp_path, storage="s3://bucket/runs?region=x")
    assert runs["a"].storage == "s3://bucket/runs/which?region=x"


def test_a_domain_changes_single_keys_of_what_all_share(tmp_path):
    own = {**OWN, "probe": {"token_budget": 190_000}, "seed": 5}
    _, runs = load(tmp_path, domains={"a": OWN, "b": own})
    assert (runs["a"].probe.token_budget, runs["b"].probe.token_budget) == (200_000, 190_000)
    assert runs["b"].probe.mix == runs["a"].probe.mix
    assert (runs["a"].seed, runs["b"].seed) == (0, 5)


def test_overrides_reach_the_study_and_what_its_runs_share(tmp_path):
    study, runs = load(tmp_path, "seeds=[4,5]", "run.probe.token_budget=150000")
    assert study.seeds == (4, 5) and runs["b"].probe.token_budget == 150_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"held_out_domains": ["c"]}, "held_out_domains: c is no domain of this study"),
        ({"seeds": [1]}, "seeds: Tuple should have at least 2 items"),
        ({"outcom": "nll"}, "outcom: unknown key, got 'nll'. Did you mean 'outcome'?"),
        (
            {"domains": {"a": {**OWN, "prob": {}}}},
            "study.yaml is not a valid study:\n  domain a: prob: unknown key, got {}. Did you",
        ),
        ({"domains": {"a": {"tasks": MINIMAL["tasks"]}}}, "domain a: corpora: field required"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(tmp_path, changes, message):
    assert message in problems(tmp_path, **changes)


def test_one_run_names_the_old_keys_and_what_is_wrong_in_every_domain(tmp_path):
    a = {**OWN, "probe": {"tokens": 3}, "prob": {}}
    b = {**OWN, "distill": {"first": "x"}, "prob": {}, "sed": 1}
    _, *lines = problems(tmp_path, rungs=2, domains={"a": a, "b": b}).splitlines()
    path = tmp_path / "study.yaml"
    assert [line.strip() for line in lines] == [
        "domains.a.probe.tokens: renamed to token_budget in 0.2.",
        "domains.b.distill.first: renamed to first_teacher in 0.2.",
        "rungs: renamed to num_curve_points in 0.2.",
        f"{path}: is written for version 0.1. Run distill-ray config upgrade {path}",
        "domain a, b: prob: unknown key, got {}. Did you mean 'probe'?",
        "domain b: sed: unknown key, got 1. Did you mean 'seed'?",
    ]


def arms(tmp_path, **changes):
    path = tmp_path / "study.yaml"
    data = {"name": "when", "run": SHARED, "domains": {"a": OWN}, **changes}
    path.write_text(yaml.safe_dump(data))
    return load_arms(*load_study(ScheduleStudy, path))["a"]


def test_the_table_s_arms_change_the_run_s_own_section(tmp_path):
    found = arms(tmp_path)
    assert list(found) == list(ARMS)
    kinds = {name: cfg.schedule.kind for name, (_, cfg) in found.items()}
    assert (kinds["most_accurate"], kinds["scd-aw"], kinds["ranked"]) == ("fixed", "scd", "ranked")
    weighted = {name for name, (_, cfg) in found.items() if cfg.objective.weighting}
    assert weighted == {"aw", "scd-aw", "ranked-aw"}
    _, default = found["default"]
    _, runs = load_study(ScheduleStudy, tmp_path / "study.yaml")
    assert default == runs["a"].distill


def test_published_arms_stay_with_one_teacher_whatever_the_run_s_section_says(tmp_path):
    own = {**OWN, "distill": {**SHARED["distill"], "objective": {"weighting": "adaptive"}}}
    found = arms(tmp_path, domains={"a": own})
    for name in ("most_accurate", "equal_periods", "scd", "on_plateau", "ranked"):
        assert found[name][1].reassess.at_progress == ()
        assert found[name][1].objective.weighting is None
    assert found["default"][1].objective.weighting == "adaptive"


def test_a_study_changes_arms_adds_some_and_leaves_some_out(tmp_path):
    changed = {"distill": {"schedule": {"window": 7}}}
    other = {"first_teacher": "late", "distill": {"schedule": {"kind": "at_steps", "steps": [5]}}}
    found = arms(tmp_path, arms={"on_plateau": changed, "mine": other, "scd": None})
    assert "scd" not in found and found["mine"][0].first_teacher == "late"
    schedule = found["on_plateau"][1].schedule
    assert (schedule.kind, schedule.window) == ("on_plateau", 7)
    mine = found["mine"][1].schedule
    assert (mine.kind, mine.steps) == ("at_steps", (5,)), "of another kind: it takes the place"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"default": "rankd"}, "default: no arm 'rankd'. Did you mean 'ranked'?"),
        ({"arms": {"scd": {"begn": "late"}}}, "arm scd can't be used:\n  begn: unknown key"),
        (
            {"arms": {"scd": {"distill": {"schedule": {"stage": 2}}}}},
            "domain a: arm scd can't be used:\n  schedule.scd.stage: unknown key",
        ),
        (
            {"arms": {"scd": {"distill": {"token_budget": 4096}}}},
            "token_budget: all arms have equal tokens",
        ),
    ],
)
def test_an_arm_that_can_not_be_used_is_told_with_its_place(tmp_path, changes, message):
    with pytest.raises(InputError) as caught:
        arms(tmp_path, **changes)
    assert message in str(caught.value)
