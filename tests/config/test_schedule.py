"""Schedules and what goes with them: defaults, and what is refused where it stands."""

import pytest

from distill_ray.config.schedule import OnSwitchConfig, ProgressConfig, RankedSchedule, ScdSchedule


def test_what_is_left_out_is_as_before():
    # SCD has as many stages as checkpoints; a ranking is looked at three times on the way.
    assert ScdSchedule().num_periods is None
    assert RankedSchedule().interval == 0.25
    assert (ProgressConfig().smoothing, ProgressConfig().monotone) == (0.0, True)
    assert (OnSwitchConfig().optimizer, OnSwitchConfig().warmup_ratio) == ("keep", 0.0)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({}, "ranked"),
        ({"serving": {"kind": "pool"}}, "ranked"),
        ({"serving": {"kind": "cached"}}, "fixed"),
        ({"ensemble": {}}, "fixed"),
        ({"ensemble": {}, "schedule": {"kind": "on_plateau"}}, "on_plateau"),
    ],
)
def test_without_a_schedule_it_is_the_ranking_anew_where_that_can_be(editor, change, kind):
    changed = {f"distill/{key}": value for key, value in change.items()}
    dropped = () if "schedule" in change else ("distill/schedule",)
    distill = editor.load(changed, drop=dropped).distill
    assert distill.schedule.kind == kind and distill.reassess.at_progress == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schedule": {"kind": "scd", "num_periods": 0}},
            "schedule.scd.num_periods: Input should be great",
        ),
        (
            {"schedule": {"kind": "scd", "stage": 3}},
            "schedule.scd.stage: unknown key, got 3. Allowed: kind, num_periods.",
        ),
        (
            {"schedule": {"kind": "ranked", "interval": 0}},
            "schedule.ranked.interval: Input should be",
        ),
        (
            {"schedule": {"kind": "ranked", "interval": 2.5}},
            "schedule.ranked.interval: 1 and up are",
        ),
        ({"schedule": {"kind": "ranked", "window": 1001}}, "schedule.ranked.window: Input should"),
        ({"schedule": {"kind": "ranked", "margin": -0.1}}, "schedule.ranked.margin: Input should"),
        ({"schedule": {"kind": "ranked", "min_gain": 0}}, "schedule.ranked.min_gain: Input should"),
        (
            {"schedule": {"kind": "ranked", "probe_step": 1}},
            "schedule.ranked.probe_step: unknown key, got 1. Did you mean 'probe_steps'?",
        ),
        ({"progress": {"smoothing": 1.0}}, "progress.smoothing: Input should be less than 1"),
        (
            {"progress": {"monoton": True}},
            "progress.monoton: unknown key, got True. Did you mean 'monotone'?",
        ),
        (
            {"on_switch": {"optimizer": "restart"}},
            "on_switch.optimizer: Input should be 'keep' or 'reset', got 'restart'.",
        ),
        (
            {"on_switch": {"warmup_ratio": 1.5}},
            "on_switch.warmup_ratio: Input should be less than or equal",
        ),
        ({"schedule": {"kind": "sdc"}}, "schedule: Input tag 'sdc' found using 'kind'"),
        ({"schedule": {"kind": "plugin"}}, "schedule.plugin.function: field required"),
        (
            {"schedule": {"kind": "plugin", "function": "mine.turns"}},
            "schedule.plugin.function: String should match pattern",
        ),
    ],
)
def test_a_schedule_that_can_t_be_is_refused_where_it_stands(editor, change, message):
    (problem,) = editor.problems({f"distill/{key}": value for key, value in change.items()})
    assert problem.startswith(f"distill.{message}")


@pytest.mark.parametrize("targets", [{"kind": "top_k"}, {"kind": "samples"}])
def test_scd_compares_whole_distributions(editor, targets):
    serving = {"kind": "pool", "targets": targets}
    (problem,) = editor.problems({"distill/serving": serving, "distill/schedule": {"kind": "scd"}})
    kind = targets["kind"]
    assert f"whole distributions, and serving.targets is {kind}. Set kind: hidden" in problem


@pytest.mark.parametrize("kind", ["scd", "ranked", "on_plateau", "plugin"])
def test_targets_aren_t_cached_for_a_schedule_that_decides_on_the_way(editor, kind):
    schedule = {"kind": kind, **({"function": "mine:turns"} if kind == "plugin" else {})}
    changes = {"distill/serving": {"kind": "cached"}, "distill/schedule": schedule}
    (problem,) = editor.problems(changes)
    assert f"decided on the way, by schedule {kind}. Set reassess.at_progress: []" in problem


def test_a_schedule_of_one_s_own_takes_any_options(editor):
    given = {"kind": "plugin", "function": "my_package.mine:turns", "options": {"every": [3, "x"]}}
    assert editor.load({"distill/schedule": given}).distill.schedule.model_dump() == given
