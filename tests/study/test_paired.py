"""What predicted the students of a study: from what its runs have left."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from stage_results import Candidate, answers, audited, finished, probed, run_of

from distill_ray.config.study import RankingStudy
from distill_ray.stages.rank import rank
from distill_ray.study.page import plain
from distill_ray.study.ranking.predictors import (
    ACCURACY,
    PREDICTORS,
    RANKING,
    TeacherEvidence,
    predictions,
)
from distill_ray.study.ranking.run import RankingDomain, compare, probe_cost, summarise

pytestmark = pytest.mark.heavy

SHARES = {"worst": 0.3, "fair": 0.5, "good": 0.7, "best": 0.9}
ENDS = {"worst": (0.4, 0.44), "fair": (0.5, 0.48), "good": (0.6, 0.62), "best": (0.7, 0.71)}
SAID = {"rsr": 2.0, "surprisal": 1.0, "gradient_norm": 3.0, "grace": 4.0}


def study_of(**changes: Any) -> RankingStudy:
    data = {
        "name": "which",
        "run": {},
        "domains": {"a": {}},
        "seeds": [0, 1],
        "num_curve_points": 2,
    }
    return RankingStudy.model_validate({**data, "num_bootstrap": 200, **changes})


def candidates(**changes: Candidate) -> dict[str, Candidate]:
    """The better a teacher, the more of it moves."""
    found = {
        name: Candidate({"organ": answers(60, 4, 0, right=share)}, (share, 1.01 * share))
        for name, share in SHARES.items()
    }
    return {**found, **changes}


def said(sign: float = 1.0) -> dict[str, dict[str, float]]:
    """Estimates in which less is better, of teachers in order; turned round by the sign."""
    return {
        name: {key: value - sign * share for key, value in SAID.items()}
        for name, share in SHARES.items()
    }


def result_of(
    folder: Path,
    found: dict[str, Candidate] | None = None,
    ends: Any = None,
    *,
    estimates: Any = None,
    cfg: RankingStudy | None = None,
    **how: Any,
) -> RankingDomain:
    """A domain's results, computed from its artifacts."""
    found = found or candidates()
    run = run_of(folder, *found)
    checked, tried = audited(run, found), probed(run, found, estimates=estimates or said())
    made = finished(run, ends or ENDS, **how)
    return compare(cfg or study_of(), checked, tried, rank(run, checked, tried), made)


def row_of(folder: Path, *arguments: Any, **options: Any) -> dict[str, Any]:
    """The same as it stands in the study's JSON."""
    return plain(result_of(folder, *arguments, **options))


def test_a_teacher_is_judged_by_its_students_mean_over_seeds(tmp_path: Path) -> None:
    row = row_of(tmp_path)
    assert row["outcomes"] == {name: list(values) for name, values in ENDS.items()}
    assert row["mean_outcomes"] == pytest.approx({n: np.mean(values) for n, values in ENDS.items()})
    assert row["initial_outcome"] == 0.1
    assert row["curves"]["best"] == [
        {"tokens": 1000, "outcome": pytest.approx(0.705 / 2)},
        {"tokens": 2000, "outcome": pytest.approx(0.705)},
    ]
    assert row["ceiling"] == 1.0 and row["failed"] == {"audit": {}, "probe": [], "full": []}


def test_agreement_is_the_rank_correlation_with_what_was_reached(tmp_path: Path) -> None:
    ends = {**ENDS, "good": (0.45, 0.46), "worst": (0.55, 0.56)}
    row = row_of(tmp_path, ends=ends)
    for name, found in row["agreement"].items():
        predicted = row["predictions"][name]
        if len(set(predicted.values())) == 1:
            assert found["spearman"] == 0.0, name
            continue
        pairs = [(predicted[t], row["mean_outcomes"][t]) for t in ends]
        assert found["spearman"] == pytest.approx(stats.spearmanr(*zip(*pairs)).statistic), name
    assert row["agreement"][ACCURACY]["top_predicted"] == "best"
    assert row["agreement"][ACCURACY]["regret"] == 0.0


def test_regret_is_what_the_chosen_teacher_s_student_lacks(tmp_path: Path) -> None:
    ends = {**ENDS, "best": (0.5, 0.5), "worst": (0.3, 0.3)}
    found = row_of(tmp_path, ends=ends)["agreement"][ACCURACY]
    assert (found["top_predicted"], found["best"]) == ("best", "good")
    assert found["regret"] == pytest.approx(0.61 - 0.5)
    assert found["regret_share"] == pytest.approx((0.61 - 0.5) / (0.61 - 0.3))


def test_a_student_of_less_nll_is_a_better_one(tmp_path: Path) -> None:
    ends = {name: (1 - value, 1 - value) for name, (value, _) in ENDS.items()}
    row = row_of(tmp_path, ends=ends, cfg=study_of(outcome="nll"), nll=True)
    assert row["agreement"][ACCURACY]["spearman"] == 1.0
    assert row["agreement_early"][ACCURACY]["spearman"] == 1.0
    assert row["agreement"][ACCURACY]["best"] == "best"


def test_what_a_predictor_says_of_the_first_rung_is_told_apart(tmp_path: Path) -> None:
    """The best teachers' students are the last to rise."""
    slow = dict(zip(ENDS, (0.9, 0.6, 0.4, 0.2)))
    row = row_of(tmp_path, share_soon=slow)
    assert row["agreement"][ACCURACY]["spearman"] == 1.0
    assert row["agreement_early"][ACCURACY]["spearman"] == -1.0


def test_a_predictor_that_is_turned_round_has_the_opposite_correlation(tmp_path: Path) -> None:
    here, there = (row_of(tmp_path, estimates=said(sign))["agreement"] for sign in (1, -1))
    for name in ("RSR", "GRACE", "G-Norm", "surprisal"):
        assert (here[name]["spearman"], there[name]["spearman"]) == (1.0, -1.0)
    assert here[ACCURACY] == there[ACCURACY]


def evidence(better: float) -> TeacherEvidence:
    """A teacher that is as much better in every respect; its answers suit the student better."""
    metrics = ("gain", "accuracy", "kl_moved", "kl_removed")
    return TeacherEvidence(
        parameters=round(1000 * (1 + better)),
        tasks={"organ": {"accuracy": better, "nll": -better, "ece": 1 - better}},
        probes=[dict.fromkeys(metrics, better), dict.fromkeys(metrics, 2 * better)],
        estimates={name: value - better for name, value in SAID.items()},
        scores=dict.fromkeys(("early", "middle", "late"), better),
        taught=[{"accuracy": better, "nll": -better, "brier": 1 - better}],
    )


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_is_higher_for_a_better_teacher(name: str) -> None:
    found = predictions({"low": evidence(0.1), "middle": evidence(0.2), "high": evidence(0.4)})[
        name
    ]
    assert found["low"] < found["middle"] < found["high"]


def test_tasks_and_probes_count_alike_in_a_predictor() -> None:
    one = evidence(0.2)
    tasks = {"organ": one.tasks["organ"], "side": evidence(0.6).tasks["organ"]}
    both = replace(one, tasks=tasks)
    found = predictions({"both": both})
    assert found[ACCURACY]["both"] == pytest.approx(0.4)
    assert found["probe: task gain"]["both"] == pytest.approx(0.3)
    assert found["RSR"]["both"] == pytest.approx(-1.8), "negated"


def test_a_teacher_that_said_nothing_comes_last_by_estimates_that_read_its_words(
    tmp_path: Path,
) -> None:
    estimates = {**said(), "best": None}
    row = row_of(tmp_path, estimates=estimates)
    for name in ("RSR", "surprisal"):
        values = row["predictions"][name]
        assert min(values, key=lambda n: values[n]) == "best"
        assert all(map(math.isfinite, values.values()))
        assert row["agreement"][name]["top_predicted"] == "good"


def test_a_study_may_take_no_gradients(tmp_path: Path) -> None:
    none = {name: {**row, "gradient_norm": None, "grace": None} for name, row in said().items()}
    row = row_of(tmp_path, estimates=none)
    assert row["agreement"]["GRACE"]["spearman"] == row["agreement"]["G-Norm"]["spearman"] == 0.0
    assert row["agreement"]["RSR"]["spearman"] == 1.0


def test_a_teacher_of_which_a_full_run_failed_is_left_out_and_named(tmp_path: Path) -> None:
    row = row_of(tmp_path, ends={**ENDS, "fair": (0.5, None)})
    assert set(row["mean_outcomes"]) == {"worst", "good", "best"}
    assert all(set(values) == set(row["mean_outcomes"]) for values in row["predictions"].values())
    assert row["failed"]["full"] == [{"teacher": "fair", "seed": 1, "reason": "diverged"}]


def test_a_teacher_that_was_not_ranked_is_left_out_and_named(tmp_path: Path) -> None:
    alone = Candidate({"organ": answers(60, 4, 0, right=0.5)}, (0.5, None))
    row = row_of(tmp_path, candidates(fair=alone))
    assert "fair" not in row["mean_outcomes"]
    (failed,) = row["failed"]["probe"]
    assert failed["teacher"] == "fair"


def test_the_control_s_tokens_are_in_the_cost(tmp_path: Path) -> None:
    """Two teachers, two probes each of 1000 tokens, beside one control; 10000 in a full run."""
    found = {name: candidates()[name] for name in ("good", "best")}
    run = run_of(tmp_path, *found)
    full = finished(run, {"good": (0.5, 0.5), "best": (0.6, 0.6)}, training_s=20.0, wall_s=400.0)
    unaided = {"organ": np.zeros((60, 4))}
    tried = probed(run, found, control_logprobs=unaided, training_s=2.0, wall_s=100.0)
    cost = plain(probe_cost(tried, full))
    assert (cost["probe_tokens"], cost["full_tokens"]) == (2500, 10_000)
    assert cost["tokens_share"] == 0.25
    assert cost["training_share"] == pytest.approx(5 / 20)
    assert cost["wall_share"] == pytest.approx(250 / 400, rel=0.01)


def test_without_a_control_only_the_probes_that_ended_cost(tmp_path: Path) -> None:
    found = {name: candidates()[name] for name in ("good", "best")}
    found["half"] = Candidate(found["good"].asked, (0.5, None))
    run = run_of(tmp_path, *found)
    full = finished(run, {"good": (0.5, 0.5), "best": (0.6, None)})
    tried = probed(run, found, control_logprobs=None)
    cost = plain(probe_cost(tried, full))
    assert cost["probe_tokens"] == pytest.approx(5000 / 3) and cost["full_tokens"] == 10_000


def test_over_domains_correlations_and_regrets_are_averaged(tmp_path: Path) -> None:
    turned = {name: ENDS[other] for name, other in zip(ENDS, reversed(ENDS))}
    results = [result_of(tmp_path / "a"), result_of(tmp_path / "b", ends=turned)]
    rows = [plain(result) for result in results]
    overall = plain(summarise(study_of(), results))
    assert set(overall) == set(PREDICTORS)
    for name, found in overall.items():
        each = [row["agreement"][name] for row in rows]
        assert found["spearman"]["value"] == pytest.approx(np.mean([a["spearman"] for a in each]))
        for key in ("kendall", "regret", "regret_share"):
            assert found[key] == pytest.approx(np.mean([a[key] for a in each]))
        assert found["worst_regret_share"] == max(a["regret_share"] for a in each)
        assert found["domains"] == 2
    ours = overall[RANKING]
    assert ours["spearman"]["value"] == 0.0 and ours["worst_regret_share"] == 1.0
    assert ours["spearman"]["low"] <= 0.0 <= ours["spearman"]["high"]
    assert ours["spearman_early"] == 0.0
    alone = plain(summarise(study_of(), results[:1])[RANKING])
    assert alone["spearman"] == {"value": 1.0, "low": 1.0, "high": 1.0}
