"""Metrics from model scores: with intervals, scaled, and on shifted sets."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.plain_bootstrap import bootstrap_mean
from sklearn.metrics import roc_auc_score
from stage_results import scores_record

from distill_ray.core import calibration
from distill_ray.core.intervals import Interval
from distill_ray.core.temperature import cross_fitted, fit_temperature, scaled
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.model_scores import MODEL_SCORES, ModelScores
from distill_ray.stages.scoring.metrics import (
    FLOOR_DRAWS,
    MetricOptions,
    drop,
    scaling,
    task_metrics,
    text_nll,
)

FIGURES = MetricOptions(bins=10, resamples=300, confidence=0.95)
END = 0


def questions(n: int, options: int, seed: int, *, skill: float = 1.0, sharp: float = 1.0) -> Any:
    """Log-scores of a model that is calibrated where `sharp` is 1, with gold options."""
    rng = np.random.default_rng(seed)
    scores = skill * rng.normal(size=(n, options))
    p = calibration.normalise(scores)
    gold = [int(rng.choice(options, p=row)) for row in p]
    return (sharp * scores).tolist(), gold, [f"g{i // 2}" for i in range(n)]


def written(folder: Path, sets: dict[str, Any], **changes: Any) -> ModelScores:
    """The scores of a model on these sets; lengths and priors say nothing unless given."""
    widths = {name: len(scores[0]) for name, (scores, *_) in sets.items()}
    columns: dict[str, Any] = {
        "options": {name: scores for name, (scores, _, _) in sets.items()},
        "answer_index": {name: gold for name, (_, gold, _) in sets.items()},
        "groups": {name: groups for name, (_, _, groups) in sets.items()},
        "lengths": {name: [1] * k for name, k in widths.items()},
        "prior": {name: [0.0] * k for name, k in widths.items()},
        "answers": {name: [[10 + i] for i in range(k)] for name, k in widths.items()},
        "end": dict.fromkeys(sets, END),
        "generated": {name: [] for name in sets},
        **changes,
    }
    artifact = Artifact(
        Storage(str(folder)), "scores", "", {"number": str(folder), "of": len(sets)}
    )
    with artifact.building() as building:
        scores_record(**columns).write(building, MODEL_SCORES)
    return ModelScores(artifact)


def measured(made: ModelScores, name: str) -> Any:
    return task_metrics(made, name, **asdict(FIGURES))


def test_accuracy_is_given_as_it_is_per_token_and_against_the_prior(tmp_path: Path) -> None:
    # The right option is the first, and only looking at what the question adds shows it.
    scores = [[-6.3, -2.0, -5.0], [-7.0, -9.0, -5.5], [-3.3, -1.0, -8.0]]
    made = written(
        tmp_path,
        {"q": (scores, [0, 0, 0], ["a", "b", "c"])},
        lengths={"q": [3, 1, 2]},
        prior={"q": [-9.0, -1.0, -4.0]},
    )
    found = measured(made, "q")
    assert found.accuracy.value == 0
    assert found.accuracy_by_length.value == pytest.approx(1 / 3)
    assert found.accuracy_by_prior.value == 1
    assert found.generated == 0 and found.exact_match is None and found.valid is None
    assert found.auroc is None, "no answer is right"


def test_generated_answers_are_valid_if_they_end_and_exact_if_they_are_right(
    tmp_path: Path,
) -> None:
    scores, _, groups = questions(8, 3, 0)
    said = [[10, END], [11, END], [12], [10, 10, END], [], [13, END]]
    gold = [0, 0, 2, 0, 0, 0, 1, 1]
    made = written(tmp_path, {"q": (scores, gold, groups)}, generated={"q": said})
    assert made.generated_index("q").tolist() == [0, 1, -1, -1, -1, -1]
    found = measured(made, "q")
    assert found.generated == 6
    assert found.exact_match.value == pytest.approx(1 / 6)
    assert found.valid.value == pytest.approx(2 / 6)


def test_figures_are_those_of_the_calibration_module_and_the_bootstrap(tmp_path: Path) -> None:
    scores, gold, groups = questions(400, 4, 1)
    found = measured(written(tmp_path, {"q": (scores, gold, groups)}), "q")
    p, right = calibration.normalise(np.array(scores)), np.array(gold)
    sure, correct = p.max(axis=1), (p.argmax(axis=1) == right).astype(float)
    expected = {
        "ece": calibration.ece(sure, correct, 10),
        "adaptive_ece": calibration.adaptive_ece(sure, correct, 10),
        "classwise_ece": calibration.classwise_ece(p, right, 10),
        "brier": calibration.brier_each(p, right).mean(),
        "auroc": roc_auc_score(correct, sure),
        "accuracy": correct.mean(),
    }
    for name, value in expected.items():
        interval = getattr(found, name)
        assert interval.value == pytest.approx(value), name
        assert interval.low < interval.value < interval.high, name
    nll = bootstrap_mean(calibration.nll_each(p, right), groups, resamples=300)
    assert asdict(found.nll) == pytest.approx(asdict(nll))
    floors = {
        "ece": calibration.noise_floor(sure, 10),
        "adaptive_ece": calibration.noise_floor(sure, 10, metric=calibration.adaptive_ece),
        "classwise_ece": calibration.noise_floor(
            p, 10, metric=calibration.classwise_ece, draws=FLOOR_DRAWS
        ),
    }
    for name, value in floors.items():
        assert getattr(found, f"{name}_floor") == pytest.approx(value), name
    assert len({round(value, 6) for value in floors.values()}) == 3, "each error has its own"
    # Calibrated by construction: each error's interval reaches the floor.
    for name in ("ece", "adaptive_ece", "classwise_ece"):
        assert getattr(found, name).low < getattr(found, f"{name}_floor"), name


def test_a_temperature_is_fitted_on_all_tasks_and_honest_on_each(tmp_path: Path) -> None:
    sets = {
        "a": questions(600, 5, 1, skill=2, sharp=3),
        "a.shifted": questions(300, 5, 2, skill=2, sharp=3),
        "b": questions(400, 3, 3, skill=2, sharp=3),
    }
    made = written(tmp_path, sets)
    found = scaling(made, ["a", "b"], FIGURES)
    assert found.temperature == pytest.approx(3, rel=0.15)
    pooled, gold, _ = pool(sets, ["a", "b"])
    assert found.temperature == pytest.approx(fit_temperature(pooled, gold))
    each = [fit_temperature(*(np.array(x) for x in sets[name][:2])) for name in ("a", "b")]
    assert found.temperature not in [pytest.approx(t, rel=1e-3) for t in each], "on all tasks"
    assert set(found.sets) == set(sets)
    for name, after in found.sets.items():
        before = measured(made, name)
        assert after.nll.high < before.nll.low, name
        assert after.ece.value < before.ece.low, name
        assert after.ece.low < after.ece_floor, name
        assert len(after.reliability.count) <= 10
    # Nothing but the tasks' questions decides it.
    alone = written(tmp_path / "alone", {name: sets[name] for name in ("a", "b")})
    assert scaling(alone, ["a", "b"], FIGURES).temperature == found.temperature
    only = scaling(written(tmp_path / "one", {"a": sets["a"]}), ["a"], FIGURES)
    own = fit_temperature(np.array(sets["a"][0]), np.array(sets["a"][1]))
    assert only.temperature == pytest.approx(own)
    assert scaling(made, [], FIGURES).temperature == 1


def pool(sets: dict[str, Any], names: list[str]) -> tuple[Any, Any, list[str]]:
    """All questions of some sets: scores padded with impossible options, gold, groups."""
    width = max(len(sets[name][0][0]) for name in names)
    scores = [row + [-np.inf] * (width - len(row)) for name in names for row in sets[name][0]]
    gold = [answer for name in names for answer in sets[name][1]]
    groups = [f"{name}/{group}" for name in names for group in sets[name][2]]
    return np.array(scores), np.array(gold), groups


def test_a_task_is_scaled_by_temperatures_fitted_on_other_groups_of_all_tasks(
    tmp_path: Path,
) -> None:
    """The tasks need different temperatures, and groups are large: each choice shows."""
    sets = {
        "a": questions(60, 4, 1, skill=2, sharp=4),
        "a.shifted": questions(40, 4, 2, skill=2, sharp=4),
        "b": questions(40, 3, 3, skill=2, sharp=1),
    }
    sets = {
        name: (scores, gold, [f"g{i // 8}" for i in range(len(gold))])
        for name, (scores, gold, _) in sets.items()
    }
    found = scaling(written(tmp_path, sets), ["a", "b"], FIGURES)
    scores, gold, groups = pool(sets, ["a", "b"])
    temperature = fit_temperature(scores, gold)
    assert found.temperature == pytest.approx(temperature)

    honest = cross_fitted(scores, gold, groups)
    expected = {
        "a": honest[:60],
        "b": honest[60:, :3],
        "a.shifted": scaled(np.array(sets["a.shifted"][0]), temperature),
    }
    for name, p in expected.items():
        right, after = np.array(sets[name][1]), found.sets[name]
        sure = p.max(axis=1)
        correct = (p.argmax(axis=1) == right).astype(float)
        nll = bootstrap_mean(calibration.nll_each(p, right), sets[name][2], resamples=300)
        assert asdict(after.nll) == pytest.approx(asdict(nll)), name
        assert after.ece.value == pytest.approx(calibration.ece(sure, correct, 10)), name
        assert after.ece_floor == pytest.approx(calibration.noise_floor(sure, 10)), name

    # What it isn't: fitted on the same questions, on near copies of them, or on one task.
    own = scaled(scores, temperature)
    alone = cross_fitted(scores, gold, [str(i) for i in range(len(gold))])
    one_task = cross_fitted(scores[:60], gold[:60], groups[:60])
    value = found.sets["a"].nll.value
    for p in (own, alone, one_task):
        assert value != pytest.approx(calibration.nll_each(p[:60], gold[:60]).mean(), rel=1e-6)


def test_the_interval_of_generated_answers_resamples_the_groups_of_their_questions(
    tmp_path: Path,
) -> None:
    """The first questions are the ones that are answered freely; here they are near copies."""
    scores, _, _ = questions(8, 3, 0)
    groups = ["a", "a", "b", "b", "c", "d", "e", "f"]
    answers = [[10, END], [10, END], [11, END], [12]]
    made = written(tmp_path, {"q": (scores, [0] * 8, groups)}, generated={"q": answers})
    found = measured(made, "q")
    exact, valid = np.array([1.0, 1, 0, 0]), np.array([1.0, 1, 1, 0])
    for interval, values in ((found.exact_match, exact), (found.valid, valid)):
        expected = bootstrap_mean(values, groups[:4], resamples=300)
        assert asdict(interval) == pytest.approx(asdict(expected))
    assert (found.exact_match.low, found.exact_match.high) == (0, 1), "two groups, one right"


def test_a_drop_s_interval_covers_what_is_lost_and_nothing_where_nothing_is(
    tmp_path: Path,
) -> None:
    sets = {
        "task": questions(500, 4, 1, skill=3),
        "task.same": questions(500, 4, 2, skill=3),
        "task.hard": questions(300, 4, 3, skill=0.5),
    }
    made = written(tmp_path, sets)
    hard = drop(made, "task", "task.hard", FIGURES)
    accuracy, nll = (measured(made, "task"), measured(made, "task.hard")), hard.nll
    assert hard.accuracy.value == pytest.approx(
        accuracy[0].accuracy.value - accuracy[1].accuracy.value
    )
    assert nll.value == pytest.approx(accuracy[1].nll.value - accuracy[0].nll.value)
    assert hard.accuracy.low > 0 and nll.low > 0
    assert not drop(made, "task", "task.same", FIGURES).accuracy.excludes_zero()
    # Two independent sets: variances add up, as the intervals' squared half widths do.
    half = [(m.accuracy.high - m.accuracy.low) / 2 for m in accuracy]
    width = (hard.accuracy.high - hard.accuracy.low) / 2
    assert width == pytest.approx(np.hypot(*half), rel=0.15)


def test_text_nll_is_by_corpus_and_by_kind_with_intervals_over_rows(tmp_path: Path) -> None:
    rows = {
        "notes": {"nll": [10.0, 30.0, 20.0], "tokens": [10, 10, 5]},
        "papers": {"nll": [8.0, 9.0], "tokens": [4, 4]},
        "chat": {"nll": [50.0], "tokens": [10]},
    }
    text = {"notes": 2.4, "papers": 2.125, "chat": 5.0}
    made = written(tmp_path, {}, rows=rows, text=text)
    kinds = {"notes": "domain", "papers": "domain", "chat": "generic", "absent": "generic"}
    found = text_nll(made, kinds, FIGURES)
    assert {name: i.value for name, i in found.corpora.items()} == pytest.approx(text)
    assert found.kinds["domain"].value == pytest.approx(77 / 33)
    assert found.kinds["generic"] == Interval(5.0, 5.0, 5.0)
    assert found.corpora["notes"].low < 2.4 < found.corpora["notes"].high


def test_a_table_s_figures_take_seconds(tmp_path: Path) -> None:
    made = written(tmp_path, {"a": questions(2000, 20, 1), "a.b": questions(2000, 20, 2)})
    figures = MetricOptions(15, 1000, 0.95)
    started = time.process_time()
    for name in made.sets:
        task_metrics(made, name, **asdict(figures))
    scaling(made, ["a"], figures)
    drop(made, "a", "a.b", figures)
    assert time.process_time() - started < 10
