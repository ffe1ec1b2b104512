"""From audits and probes to factors, standings, and who may teach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.taught import factors
from stage_results import Asked, Candidate, answers, audited, probed, run_of

from distill_ray.config import InputError
from distill_ray.runtime.run import Run
from distill_ray.stages.rank import rank
from distill_ray.stages.results.ranking import PHASES, Ranking
from distill_ray.stages.selection.factors import Evidence, gather

OTHERS = ("accuracy_above_chance", "domain_knowledge", "calibration")
TASK = {"organ": answers(60, 4, 0, right=0.8)}
CONTROL = {"organ": answers(60, 4, 0, right=0.6).scores}


def alpha(value: float, **changes: Any) -> dict[str, Any]:
    return {"objective": {"alpha": value}, **changes}


def gathered(run: Run, found: Mapping[str, Candidate], control_logprobs: Any = None) -> Evidence:
    return gather(
        run.cfg, audited(run, found), probed(run, found, control_logprobs=control_logprobs)
    )


def ranked(run: Run, found: Mapping[str, Candidate], **failed: str) -> Ranking:
    return rank(run, audited(run, found, failed=failed), probed(run, found))


def only(factor: str, name: str = "a") -> Any:
    return lambda seen: seen.factors[name][factor]


# --- factors ---------------------------------------------------------------------------------


def test_ease_is_relative_to_the_teacher_of_which_most_moved(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", "none")
    found = {"a": Candidate(TASK, (4.0, 6.0)), "b": Candidate(TASK, (1.0, 3.0))}
    found["none"] = Candidate(TASK, (-1.0, -0.5))
    seen = gathered(run, found)
    ease = {name: row["learnability"] for name, row in seen.factors.items()}
    assert ease == pytest.approx({"a": 1.0, "b": (2 / 5) ** 0.5, "none": 0.0}), "by its root"


def test_a_failed_seed_that_was_a_lucky_one_doesn_t_make_a_teacher_easier(tmp_path: Path) -> None:
    # Seed 2 moves 2 nats more with any teacher, and only b has ended there.
    run = run_of(tmp_path, "a", "b")
    found = {"a": Candidate(TASK, (2.0, 2.0, None)), "b": Candidate(TASK, (2.0, 2.0, 4.0))}
    seen = gathered(run, found)
    assert seen.factors["a"]["learnability"] == pytest.approx(seen.factors["b"]["learnability"])
    assert seen.rows["a"].seeds == [0, 1] and seen.rows["b"].kl_moved == [2.0, 2.0, 4.0]


def test_factors_of_a_mixture_that_is_counted_by_hand(tmp_path: Path) -> None:
    """Half teacher, half control is (.5, .25) of all that could be said: 2/3 and 1/3.

    Gold is the first option of three in four, which is what base rates know: accuracy 3/4, Brier
    1 - (9 + 1) / 16 = 3/8, entropy .5623. The mixture is right as often, its Brier score is
    (3 · 2/9 + 8/9) / 4 = 7/18 > 3/8, its NLL (3 · ln 1.5 + ln 3) / 4 = .5787 > .5623.
    Where the teacher is turned round for the last question, it knows all of them.
    """
    run = run_of(tmp_path, "flat", "sharp", distill=alpha(0.5))
    gold, control_logprobs = [0, 0, 0, 1], np.log([[0.2, 0.4]] * 4)
    flat = Asked(np.log([[0.8, 0.1]] * 4), gold)
    sharp = Asked(np.log([[0.8, 0.1]] * 3 + [[0.1, 0.8]]), gold)
    found = {"flat": Candidate({"organ": flat}), "sharp": Candidate({"organ": sharp})}
    seen = gathered(run, found, {"organ": control_logprobs})
    assert {f: seen.factors["flat"][f] for f in OTHERS} == dict.fromkeys(OTHERS, 0.0)
    (row,) = seen.rows["flat"].taught
    assert row.accuracy == 0.75
    assert row.brier == pytest.approx(7 / 18)
    assert row.nll == pytest.approx((3 * np.log(1.5) + np.log(3)) / 4)
    # The last question: (.05 + .1, .4 + .2) = (.15, .6), which is 1/5 and 4/5.
    expected = {
        "accuracy_above_chance": 1.0,
        "domain_knowledge": 1 - (3 * np.log(1.5) + np.log(1.25)) / 4 / 0.5623351446,
        "calibration": 1 - (3 * 2 / 9 + 2 / 25) / 4 / (3 / 8),
    }
    assert {f: seen.factors["sharp"][f] for f in OTHERS} == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_factors_are_of_the_mixture_over_all_that_could_be_said(
    tmp_path: Path, share: float
) -> None:
    run = run_of(tmp_path, "a", "b", distill=alpha(share))
    quiet = {"organ": answers(60, 4, 0, right=0.4, inside=0.05)}
    found = {"a": Candidate(TASK), "b": Candidate(quiet)}
    seen = gathered(run, found, CONTROL)
    for name, asked in (("a", TASK["organ"]), ("b", quiet["organ"])):
        expected = factors(asked.scores, asked.gold, CONTROL["organ"], share)
        assert {f: seen.factors[name][f] for f in OTHERS} == pytest.approx(expected)


def test_without_a_control_the_teacher_counts_alone(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", distill=alpha(0.3))
    seen = gathered(run, {"a": Candidate(TASK), "b": Candidate(TASK)}, None)
    expected = factors(TASK["organ"].scores, TASK["organ"].gold)
    assert {f: seen.factors["a"][f] for f in OTHERS} == pytest.approx(expected)


def test_an_objective_without_labels_leaves_the_teacher_alone(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", distill=alpha(1.0))
    seen = gathered(run, {"a": Candidate(TASK), "b": Candidate(TASK)}, CONTROL)
    expected = factors(TASK["organ"].scores, TASK["organ"].gold)
    assert {f: seen.factors["a"][f] for f in OTHERS} == pytest.approx(expected)


def test_only_the_questions_that_the_control_was_asked_count(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", distill=alpha(0.8))
    first = {"organ": CONTROL["organ"][:50]}
    seen = gathered(run, {"a": Candidate(TASK), "b": Candidate(TASK)}, first)
    scores, gold = TASK["organ"].scores[:50], TASK["organ"].gold[:50]
    expected = factors(scores, gold, first["organ"], 0.8)
    assert {f: seen.factors["a"][f] for f in OTHERS} == pytest.approx(expected)


def test_a_flat_teacher_is_not_punished_like_a_sure_and_wrong_one(tmp_path: Path) -> None:
    gold = TASK["organ"].gold
    wrong = (np.array(gold) + 1) % 4
    sure = np.log(0.001 + 0.995 * np.eye(4)[wrong])
    flat = np.full((60, 4), np.log(0.001))
    # Over the options alone both would be as often right: never, or by the first option.
    found = {n: Candidate({"organ": Asked(s, gold)}) for n, s in (("sure", sure), ("flat", flat))}
    learnt = TASK["organ"].scores
    run = run_of(tmp_path, *found, distill=alpha(0.8))
    seen = gathered(run, found, {"organ": learnt})
    alone = factors(learnt, gold)
    assert {f: seen.factors["sure"][f] for f in OTHERS} == dict.fromkeys(OTHERS, 0.0)
    for name in OTHERS:
        assert seen.factors["flat"][name] == pytest.approx(alone[name], abs=0.05)
        assert seen.factors["flat"][name] > 0.2


def test_tasks_count_alike_however_many_questions_they_have(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b", tasks=("organ", "side"), distill=alpha(0.8))
    both = {"organ": TASK["organ"], "side": answers(12, 3, 1, right=0.5)}
    control = {"organ": CONTROL["organ"], "side": answers(12, 3, 1, right=0.9).scores}
    seen = gathered(run, {"a": Candidate(both), "b": Candidate(both)}, control)
    each = [factors(both[t].scores, both[t].gold, control[t], 0.8) for t in both]
    for name in OTHERS:
        assert seen.factors["a"][name] == pytest.approx(np.mean([row[name] for row in each]))


@pytest.mark.parametrize(
    ("text", "task", "share"), [(1.0, 1.0, 0.5), (1.0, 3.0, 0.25), (0.0, 1.0, 0.0)]
)
def test_domain_counts_text_and_tasks_as_the_loss_does(
    tmp_path: Path, text: float, task: float, share: float
) -> None:
    weights = {"loss_weights": {"text": text, "task": task}}
    run = run_of(tmp_path, "a", "b", distill=weights)
    # The student's NLL on the corpus is 4 nats; a removes a quarter of it, b none.
    found = {"a": Candidate(TASK, text={"findings": 3.0})}
    found["b"] = Candidate(TASK, text={"findings": 5.0})
    seen = gathered(run, found)
    on_tasks = factors(TASK["organ"].scores, TASK["organ"].gold)["domain_knowledge"]
    assert seen.factors["a"]["domain_knowledge"] == pytest.approx(
        share * 0.25 + (1 - share) * on_tasks
    )
    assert seen.factors["b"]["domain_knowledge"] == pytest.approx((1 - share) * on_tasks)


def test_generic_text_says_nothing_of_the_domain(tmp_path: Path) -> None:
    source = {"text": str(tmp_path / "corpus.txt")}
    sources = [{"name": "findings", "source": source, "kind": "generic"}]
    run = run_of(tmp_path, "a", "b", corpora={"sources": sources})
    found = {n: Candidate(TASK, text={"findings": 3.0}) for n in ("a", "b")}
    on_tasks = factors(TASK["organ"].scores, TASK["organ"].gold)["domain_knowledge"]
    assert gathered(run, found).factors["a"]["domain_knowledge"] == pytest.approx(on_tasks)


# --- draws -----------------------------------------------------------------------------------


def widths(seen: Evidence, name: str = "a") -> dict[str, float]:
    ends = {f: np.percentile(v, [10, 90]) for f, v in seen.draws.factors[name].items()}
    return {f: float(high - low) for f, (low, high) in ends.items()}


def test_intervals_contain_the_point(tmp_path: Path) -> None:
    asked = {"organ": answers(60, 4, 0, right=0.6)}
    found = {"a": Candidate(TASK, (2.0, 2.2, 2.1)), "b": Candidate(asked, (1.0, 1.1, 1.3))}
    seen = gathered(run_of(tmp_path, "a", "b", distill=alpha(0.8)), found, CONTROL)
    for name, row in seen.factors.items():
        for factor, value in row.items():
            draws = seen.draws.factors[name][factor]
            low, high = np.percentile(draws, [1, 99])
            assert low <= value <= high, (name, factor)
    for rows in ranked(run_of(tmp_path, "a", "b"), found).leaderboard.values():
        assert all(row.low < row.score < row.high for row in rows)


def test_more_questions_make_what_comes_from_the_audit_surer(tmp_path: Path) -> None:
    wide, narrow = (
        widths(gathered(run_of(tmp_path, "a", "b"), dict.fromkeys("ab", Candidate({"organ": q}))))
        for q in (answers(40, 4, 0, right=0.7), answers(640, 4, 0, right=0.7))
    )
    for factor in OTHERS:
        assert narrow[factor] == pytest.approx(wide[factor] / 4, rel=0.35)
    assert narrow["learnability"] == wide["learnability"], "the probes are the same"


def test_questions_of_one_group_are_not_counted_as_many(tmp_path: Path) -> None:
    """Each of 40 questions fourfold is as sure as 40 questions, where the groups say so."""
    once = answers(40, 4, 0, right=0.7)
    scores, gold = np.repeat(once.scores, 4, axis=0), np.repeat(once.gold, 4).tolist()
    groups = [f"g{i // 4}" for i in range(160)]
    single, copies, together = (
        widths(gathered(run_of(tmp_path, "a", "b"), dict.fromkeys("ab", Candidate({"organ": q}))))
        for q in (once, Asked(scores, gold), Asked(scores, gold, groups))
    )
    for factor in OTHERS:
        assert together[factor] == pytest.approx(single[factor], rel=0.15)
        assert copies[factor] == pytest.approx(single[factor] / 2, rel=0.25)


def test_more_seeds_make_ease_surer(tmp_path: Path) -> None:
    def of(seeds: int) -> float:
        noise = [0.1 * (-1) ** s for s in range(seeds)]
        found = {
            "a": Candidate(TASK, [1 + e for e in noise]),
            "b": Candidate(TASK, [2 - e for e in noise]),
        }
        return widths(gathered(run_of(tmp_path, "a", "b"), found))["learnability"]

    assert of(12) < of(4) / 1.5 < of(2) / 1.5


def test_what_all_teachers_have_in_common_at_a_seed_is_no_noise(tmp_path: Path) -> None:
    found = {
        "a": Candidate(TASK, (1.0, 3.0, 2.0)),
        "b": Candidate(TASK, (2.0, 4.0, 3.0)),
    }
    assert widths(gathered(run_of(tmp_path, "a", "b"), found))["learnability"] < 1e-4


# --- standings, calls, marks -----------------------------------------------------------------


def test_a_teacher_that_is_better_in_all_leads_at_every_stage(tmp_path: Path) -> None:
    worse = {"organ": answers(60, 4, 0, right=0.5)}
    # The moved nats differ little, so that what is measured is sure.
    found = {"b": Candidate(worse, (1.0, 1.01, 1.0)), "a": Candidate(TASK, (2.0, 2.0, 2.01))}
    made = ranked(run_of(tmp_path, "b", "a"), found)
    assert set(made.leaderboard) == set(made.verdicts) == set(PHASES)
    for stage, rows in made.leaderboard.items():
        assert [row.teacher for row in rows] == ["a", "b"]
        assert sum(row.probability_best for row in rows) == pytest.approx(1)
        assert made.verdicts[stage] == "separated at 95 %"
        assert made.best(stage) == "a"
    assert made.eligible == ["a", "b"] and made.ineligible == {} and made.failed == {}


def test_a_score_is_the_weighted_sum_of_the_factors(tmp_path: Path) -> None:
    importance = dict.fromkeys(OTHERS, "low")
    run = run_of(
        tmp_path,
        "a", "b",
        rank={"early": {"learnability": "critical", **importance},
              "late": {"learnability": "low", **importance}},
    )  # fmt: skip
    found = {"a": Candidate(TASK, (1.0, 1.2)), "b": Candidate(TASK, (2.0, 2.2))}
    made = ranked(run, found)
    row = made.factors["a"]
    rest = sum(row[f] for f in OTHERS)
    scores = {s: {r.teacher: r.score for r in rows} for s, rows in made.leaderboard.items()}
    # In words: critical counts 16 times as much as low.
    assert scores["early"]["a"] == pytest.approx((16 * row["learnability"] + rest) / 19)
    assert scores["late"]["a"] == pytest.approx((row["learnability"] + rest) / 4)
    assert scores["middle"]["a"] == pytest.approx((scores["early"]["a"] + scores["late"]["a"]) / 2)
    assert made.weights["early"]["learnability"] == pytest.approx(16 / 19)


def test_the_leaderboard_at_any_progress_is_between_those_of_the_phases(tmp_path: Path) -> None:
    worse = {"organ": answers(60, 4, 0, right=0.6)}
    found = {"a": Candidate(TASK, (1.0, 1.2)), "b": Candidate(worse, (2.0, 2.2))}
    made = ranked(run_of(tmp_path, "a", "b"), found)
    for stage, progress in PHASES.items():
        for there, here in zip(made.leaderboard[stage], made.at(progress)):
            assert (here.teacher, here.decided_by) == (there.teacher, there.decided_by)
            for figure in ("score", "low", "high", "probability_best"):
                assert getattr(here, figure) == pytest.approx(getattr(there, figure), abs=2e-3)
    ends = [{r.teacher: r.score for r in made.at(progress)} for progress in (0.0, 0.25, 1.0)]
    assert ends[1]["a"] == pytest.approx(0.75 * ends[0]["a"] + 0.25 * ends[2]["a"])


def test_two_identical_teachers_are_too_close_to_call(tmp_path: Path) -> None:
    found = dict.fromkeys("ab", Candidate(TASK, (2.0, 2.1, 2.3)))
    made = ranked(run_of(tmp_path, "a", "b"), found)
    assert all(call.startswith("too close to call between ") for call in made.verdicts.values())
    assert made.factors["a"] == pytest.approx(made.factors["b"])
    rows = {row.teacher: row.probability_best for row in made.leaderboard["middle"]}
    assert rows["a"] == pytest.approx(0.5, abs=0.05)


def test_a_teacher_without_a_size_advantage_is_marked_and_doesn_t_serve(tmp_path: Path) -> None:
    worse = {"organ": answers(60, 4, 0, right=0.5)}
    found = {
        "a": Candidate(TASK, (2.0, 2.0, 2.01), size_ratio=1.0),
        "b": Candidate(worse, (1.0, 1.01, 1.0), size_ratio=1.1),
    }
    made = ranked(run_of(tmp_path, "a", "b"), found)
    assert made.ineligible == {"a": ["no size advantage: 1.00 of the student's parameters"]}
    assert [row.teacher for row in made.leaderboard["middle"]] == ["a", "b"], "still shown"
    assert made.eligible == ["b"] and made.best("early") == "b"
    assert set(made.ranking_weights.factors) == {"b"}
    assert ranked(run_of(tmp_path, "a", "b", rank={"min_size_ratio": 0}), found).ineligible == {}


def test_a_teacher_whose_answers_have_no_valid_form_is_marked(tmp_path: Path) -> None:
    found = {
        "a": Candidate(TASK, valid=0.49),
        "b": Candidate(TASK, valid=0.5),
        "c": Candidate(TASK, valid=None),
        "both": Candidate(TASK, valid=0.1, size_ratio=0.5),
    }
    made = ranked(run_of(tmp_path, *found), found)
    assert made.ineligible == {
        "a": ["49% of its answers to organ are one of the options"],
        "both": [
            "no size advantage: 0.50 of the student's parameters",
            "10% of its answers to organ are one of the options",
        ],
    }
    assert sorted(made.eligible) == ["b", "c"]


def test_where_all_are_marked_all_may_serve(tmp_path: Path) -> None:
    worse = {"organ": answers(60, 4, 0, right=0.5)}
    found = {
        "b": Candidate(worse, (1.0, 1.01, 1.0), size_ratio=0.8),
        "a": Candidate(TASK, (2.0, 2.0, 2.01), size_ratio=0.9),
    }
    made = ranked(run_of(tmp_path, "b", "a"), found)
    assert set(made.ineligible) == {"a", "b"}
    assert made.eligible == ["a", "b"] and made.best("late") == "a"
    assert set(made.ranking_weights.factors) == {"a", "b"}


def test_a_reassessment_has_the_factors_and_weights_of_the_ranking(tmp_path: Path) -> None:
    found = {"a": Candidate(TASK, (2.0, 2.1)), "b": Candidate(TASK, (1.0, 1.1))}
    made = ranked(run_of(tmp_path, "a", "b"), found)
    anew = made.ranking_weights
    assert anew.factors == made.factors
    assert (anew.early, anew.late) == (made.weights["early"], made.weights["late"])


def test_temperatures_of_the_ranked_teachers_are_passed_on(tmp_path: Path) -> None:
    found = {"a": Candidate(TASK, temperature=1.7), "b": Candidate(TASK, (1.0, None))}
    assert ranked(run_of(tmp_path, "a", "b"), found).temperatures == {"a": 1.7}


# --- who is left out -------------------------------------------------------------------------


def test_who_is_left_out_is_told_with_the_first_thing_that_went_wrong(tmp_path: Path) -> None:
    found = {
        "well": Candidate(TASK, (1.0, 1.1, 1.2)),
        "one": Candidate(TASK, (1.0,)),
        "half": Candidate(TASK, (1.0, None)),
        "never": Candidate(TASK, (None, None)),
        "thrice": Candidate(TASK, (1.0, None, 1.2)),
    }
    run = run_of(tmp_path, *found, "unread")
    made = ranked(run, found, unread="it has no weights")
    assert made.failed == {
        "one": "probe: too few probes ended",
        "half": "probe: seed 1: out of luck at seed 1",
        "never": "probe: seed 0: out of luck at seed 0; seed 1: out of luck at seed 1",
        "unread": "audit: it has no weights",
    }
    assert {row.teacher for row in made.leaderboard["late"]} == {"well", "thrice"}
    assert set(made.evidence) == set(made.factors) == {"well", "thrice"}


def test_a_teacher_alone_is_ranked(tmp_path: Path) -> None:
    made = ranked(run_of(tmp_path, "a"), {"a": Candidate(TASK, (1.0, 1.2))})
    (row,) = made.leaderboard["middle"]
    assert (row.probability_best, made.verdicts["middle"]) == (1.0, "separated at 95 %")
    assert made.factors["a"]["learnability"] == 1.0


def test_a_ranking_of_nobody_is_refused_with_the_reasons(tmp_path: Path) -> None:
    found = {"a": Candidate(TASK, (None, None))}
    with pytest.raises(InputError) as caught:
        ranked(run_of(tmp_path, "a", "b"), found, b="it has no weights")
    assert str(caught.value).splitlines()[0] == "no teacher is left to rank:"
    assert "teachers.a: probe: seed 0: out of luck at seed 0" in str(caught.value)
    assert "teachers.b: audit: it has no weights." in str(caught.value)


def test_a_ranking_is_made_once_and_anew_when_another_probe_failed(tmp_path: Path) -> None:
    run = run_of(tmp_path, "a", "b")
    found = {"a": Candidate(TASK), "b": Candidate(TASK)}
    made = ranked(run, found)
    assert ranked(run, found).artifact.fingerprint == made.artifact.fingerprint
    fewer = {**found, "b": Candidate(TASK, (1.0, 1.1, None))}
    assert ranked(run, fewer).artifact.fingerprint != made.artifact.fingerprint
