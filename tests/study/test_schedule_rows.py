"""What the arms of a study of schedules are said to have reached, from what their trials left."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from oracles.plain_bootstrap import bootstrap_mean
from schedule_results import RIGHT, N, questions, taught

from distill_ray.config import InputError
from distill_ray.core.resampling import Resamples
from distill_ray.study.page import plain
from distill_ray.study.paired import compare_arms, interval_of
from distill_ray.study.schedule.arms import CONTROL
from distill_ray.study.schedule.compare import BEST_STATIC, ORACLE, DomainResult, overall_of


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> DomainResult:
    return taught(
        tmp_path_factory.mktemp("a"),
        last={"ranked": ("small", "big")},
        scd={"training_s": 30.0},
    )


def test_an_arm_s_figures_are_by_seed_on_the_test_questions(domain: DomainResult) -> None:
    for name, shares in RIGHT.items():
        found = plain(domain.row)["arms"][name]
        assert found["accuracy"] == pytest.approx([round(s * N) / N for s in shares], abs=1e-9)
        assert found["tasks"]["organ"]["accuracy"] == pytest.approx(found["accuracy"])
        assert found["steps"] == 100


def test_the_best_static_choice_is_made_on_the_validation_split(domain: DomainResult) -> None:
    assert plain(domain.row)["best_static"] == "big 1", "though another is better on test"
    assert plain(domain.row)["oracle"] == "big 2"
    lead = plain(domain.row)["arms"]["scd"]["against"]["best_static"]["accuracy"]
    (task,) = domain.tasks
    ours, theirs = (np.mean(task.arms[n]["accuracy"]) for n in ("scd", "big 1"))
    assert lead["value"] == pytest.approx(ours - theirs)
    assert task.arms[BEST_STATIC] is task.arms["big 1"]
    assert task.arms[ORACLE] is task.arms["big 2"]


def test_seeds_that_agree_are_counted_one_by_one(domain: DomainResult) -> None:
    """ranked .66 and .70 against .60 and .62; the control below with both."""
    arms = plain(domain.row)["arms"]
    assert [arms["ranked"]["against"]["best_static"][k] for k in ("ahead", "seeds")] == [2, 2]
    assert arms[CONTROL]["against"]["best_static"]["ahead"] == 0
    mixed = compare_arms(domain.tasks, "ranked", "most_accurate")
    assert (mixed.ahead, mixed.seeds) == (0, 2), "behind, and equal"


def test_an_arm_is_no_different_from_itself(domain: DomainResult) -> None:
    same = plain(domain.row)["arms"]["big 1"]["against"]["best_static"]
    assert (same["accuracy"]["low"], same["accuracy"]["high"]) == (0, 0)
    assert (same["better"], same["worse"]) == (0, 0)


def test_intervals_are_paired_and_draw_whole_groups(domain: DomainResult) -> None:
    (task,) = domain.tasks
    difference = task.difference("scd", CONTROL, "accuracy")
    seed, groups = crc32(b"a/organ"), questions().groups
    expected = bootstrap_mean(difference, groups, resamples=300, seed=seed)
    found = plain(domain.row)["arms"]["scd"]["against"]["control"]["accuracy"]
    assert found["value"] == pytest.approx(expected.value)
    assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high))


def test_a_student_is_held_against_the_teacher_that_served_last_with_each_seed(
    domain: DomainResult,
) -> None:
    (task,) = domain.tasks
    arm = task.arms["ranked"]["accuracy"]
    small, big = (task.teachers[n]["accuracy"] for n in ("small", "big"))
    by_hand = ((arm[0] - small) + (arm[1] - big)) / 2
    np.testing.assert_allclose(task.minus_teacher("ranked", "last", "accuracy"), by_hand)
    found = plain(domain.row)["arms"]["ranked"]["against"]
    assert found["last_teacher"]["accuracy"]["value"] == pytest.approx(by_hand.mean())
    strongest = found["most_accurate_teacher"]["accuracy"]["value"]
    assert strongest == pytest.approx((arm.mean(axis=0) - big).mean())
    assert found["last_teacher"]["not_below"] == 1.0
    assert found["most_accurate_teacher"]["not_below"] == 0.0


def test_matching_is_not_being_worse_by_the_interval_and_beating_is_being_better(
    tmp_path: Path,
) -> None:
    right = {**RIGHT, "scd": (0.98, 0.98), "ranked": (0.2, 0.2)}
    arms = plain(taught(tmp_path, right).row)["arms"]
    said = {
        name: [arms[name]["against"]["last_teacher"][k] for k in ("matches", "beats", "not_below")]
        for name in ("scd", "big 2", "ranked")
    }
    assert said == {"scd": [1, 1, 1], "big 2": [1, 0, 1], "ranked": [0, 0, 0]}


def test_probes_beside_the_budget_are_counted(domain: DomainResult) -> None:
    ranked = plain(domain.row)["arms"]["ranked"]
    assert ranked["probe_steps"] == 3 * 8 + 2 * 5, "five steps are left after step 95"
    assert plain(domain.row)["arms"]["scd"]["probe_steps"] == 0


def test_an_arm_of_which_a_seed_failed_is_left_out_and_named(tmp_path: Path) -> None:
    found = plain(taught(tmp_path, without=("scd", 1)).row)
    assert "scd" not in found["arms"]
    assert found["failed"] == [{"arm": "scd", "seed": 1, "reason": "diverged"}]


def test_without_a_control_nothing_can_be_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the control failed with some seed"):
        taught(tmp_path, without=(CONTROL, 0))


def test_over_domains_tasks_count_alike_and_are_resampled_apart(tmp_path: Path) -> None:
    better = {**RIGHT, "scd": (0.9, 0.9)}
    both = [taught(tmp_path / "a"), taught(tmp_path / "b", better, domain="b")]
    whole = plain(overall_of(both))
    assert whole["tasks"] == 2
    scd = whole["arms"]["scd"]
    each = [np.mean(plain(found.row)["arms"]["scd"]["accuracy"]) for found in both]
    assert scd["accuracy"] == pytest.approx(np.mean(each))
    tasks = [task for found in both for task in found.tasks]
    values = [task.difference("scd", BEST_STATIC, "accuracy") for task in tasks]
    draws = np.mean([t.resamples.means(v) for t, v in zip(tasks, values)], axis=0)
    lead = scd["against"]["best_static"]["accuracy"]
    assert lead["value"] == pytest.approx(np.mean(values))
    assert [lead["low"], lead["high"]] == pytest.approx(np.percentile(draws, [2.5, 97.5]).tolist())
    one, other = (t.resamples.means(v) for t, v in zip(tasks, [values[0], values[0]]))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.25, "independent drawings"
    assert {step["to_arm"] for step in whole["steps"]} == {"most_accurate"}, "others weren't run"


def test_an_interval_over_tasks_is_narrower_than_each_one_s() -> None:
    rng = np.random.default_rng(0)
    parts = [
        (Resamples([f"{i}" for i in range(80)], resamples=800, seed=s), rng.normal(size=80))
        for s in range(4)
    ]
    whole = interval_of(parts)
    widths = [over.mean(v) for over, v in parts]
    assert whole.high - whole.low == pytest.approx(
        np.mean([w.high - w.low for w in widths]) / 2, rel=0.2
    )


def test_training_time_is_told_against_plain_distillation(domain: DomainResult) -> None:
    arms = plain(overall_of([domain]))["arms"]
    assert arms["scd"]["training_share"] == 3.0 and arms["most_accurate"]["training_share"] == 1.0
    assert arms["ranked"]["probe_share"] == pytest.approx(0.34)
    assert arms[BEST_STATIC]["training_share"] is None
