"""Whether an adaptation was worth it: each teacher against what it was, question by question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage_results import Asked, answers, run_of, write_scores

from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.run import Run
from distill_ray.stages.results.adaptation_gain import AdaptationGain
from distill_ray.stages.results.model_scores import ModelToScore
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, Weights
from distill_ray.stages.scoring.run import _artifact
from distill_ray.stages.selection.adaptation_gain import _gain, keep_if_improved

GOOD, BAD = (answers(60, 4, 0, right=share) for share in (0.8, 0.4))


def teacher(name: str, *, trained: bool = True) -> Teacher:
    raw = Weights(ModelRef("path", f"/{name}"), f"raw {name}")
    if not trained:
        return Teacher(name, raw, [raw.ref], [None], 0, raw.fingerprint)
    rungs = [ModelRef("path", f"/{name}/{i}") for i in range(3)]
    return Teacher(name, raw, rungs, [2.0, 1.0, 1.5], 1, f"trained {name}")


def place(run: Run, weights: Weights) -> Artifact:
    """Where a model's scores are."""
    subject = ModelToScore("", weights.ref, weights.fingerprint)
    return _artifact(run, shards(run), "audit", "validation", subject, run.cfg.audit.num_text_rows)


def shards(run: Run) -> ShardSet:
    return ShardSet(run.artifact("shard", "", {}), run.cfg)


def scored(run: Run, weights: Weights, asked: Asked | str, text: float = 1.0) -> None:
    """Put a model's scores in their place, or why there is none."""
    if isinstance(asked, str):
        place(run, weights).record_failure(asked)
    else:
        write_scores(place(run, weights), {"organ": asked}, text={"findings": text})


def judged(run: Run, *teachers: Teacher) -> TeacherSet:
    student = Weights(ModelRef("path", "/student"), "student")
    scored(run, student, BAD)
    made = TeacherSet(student, {t.name: t for t in teachers}, {}, [])
    return keep_if_improved(run, shards(run), made)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return run_of(tmp_path, "a", "b")


def test_a_teacher_that_gained_serves_as_it_was_trained(run: Run) -> None:
    before = teacher("a")
    scored(run, before.base_model, BAD, text=3.0)
    scored(run, before.adapted, GOOD, text=2.0)
    made = judged(run, before)
    found = made.teachers["a"]
    assert found.adapted_is_better and made.failed == {}
    assert found.serving == found.adapted == Weights(ModelRef("path", "/a/1"), "trained a/1")
    assert [ref.location for ref in found.checkpoints] == ["/a/0", "/a/1"], "up to the best"
    assert made.fingerprints() == {"a": "trained a"}
    gain = made.gains["a"]
    assert gain.adapted_is_better and gain.text == {"findings": (3.0, 2.0)}
    assert gain.accuracy.value == pytest.approx(0.4)
    assert gain.accuracy.low > 0 and gain.nll.high < 0


@pytest.mark.parametrize("after", [BAD, answers(60, 4, 0, right=0.2)])
def test_a_teacher_that_gained_nothing_serves_as_it_came(run: Run, after: Asked) -> None:
    before = teacher("a")
    scored(run, before.base_model, BAD)
    scored(run, before.adapted, after)
    made = judged(run, before)
    found = made.teachers["a"]
    assert not found.adapted_is_better and not made.gains["a"].adapted_is_better
    assert found.serving == before.base_model
    assert found.checkpoints == [before.base_model.ref]
    assert made.fingerprints() == {"a": "raw a"}
    assert found.adapted == before.adapted and found.is_trained, "what was trained is still known"


def test_an_untrained_teacher_has_no_gain_to_prove(run: Run) -> None:
    as_it_came = teacher("b", trained=False)
    scored(run, as_it_came.adapted, BAD)
    made = judged(run, as_it_came)
    assert made.gains == {} and made.failed == {}
    assert made.teachers["b"] == as_it_came and as_it_came.adapted_is_better
    assert made.teachers["b"].serving.ref == as_it_came.base_model.ref


def test_a_teacher_whose_weights_cannot_be_scored_is_left_out_by_name(run: Run) -> None:
    broken, well = teacher("a"), teacher("b")
    scored(run, broken.base_model, BAD)
    scored(run, broken.adapted, "its weights were cut off")
    scored(run, well.base_model, BAD)
    scored(run, well.adapted, GOOD)
    made = judged(run, broken, well)
    assert set(made.teachers) == set(made.gains) == {"b"}
    assert made.failed == {"a": "its weights were cut off"}


def test_a_teacher_of_which_only_the_raw_model_cannot_be_scored_serves_trained(run: Run) -> None:
    before = teacher("a")
    scored(run, before.base_model, "out of memory")
    scored(run, before.adapted, GOOD)
    made = judged(run, before)
    assert made.gains == {} and made.failed == {}
    assert made.teachers["a"].adapted_is_better and made.teachers["a"].serving == before.adapted


def test_gains_are_an_artifact_that_is_found_again(run: Run) -> None:
    before = teacher("a")
    scored(run, before.base_model, BAD)
    scored(run, before.adapted, GOOD)
    first, second = judged(run, before), judged(run, before)
    (kept,) = first.artifacts
    assert kept.kind == "adaptation-gain" and kept.manifest().counts == {"a": True}
    assert second == first
    assert kept.manifest().identity["scores"] == {
        "a": [place(run, w).fingerprint for w in (before.base_model, before.adapted)]
    }


def compared(folder: Path, raw: dict[str, Asked], adapted: dict[str, Asked]) -> AdaptationGain:
    run = run_of(folder, "a", tasks=("organ", "side"))
    models = [
        write_scores(run.artifact("scores", "", {"of": i}), asked)
        for i, asked in enumerate((raw, adapted))
    ]
    return _gain(run, *models)


def nll(asked: Asked) -> Any:
    p = np.exp(asked.scores)
    p = p / p.sum(axis=1, keepdims=True)
    return -np.log(p[np.arange(len(asked.gold)), asked.gold])


def test_a_gain_is_the_mean_over_all_questions_of_all_tasks(tmp_path: Path) -> None:
    raw = {"organ": BAD, "side": answers(20, 3, 1, right=0.5)}
    adapted = {"organ": GOOD, "side": answers(20, 3, 1, right=0.75)}
    found = compared(tmp_path, raw, adapted)
    differences = np.concatenate([nll(adapted[t]) - nll(raw[t]) for t in raw])
    assert found.nll.value == pytest.approx(differences.mean())
    assert found.accuracy.value == pytest.approx((60 * 0.4 + 20 * 0.25) / 80)


def test_shifted_questions_say_nothing_of_the_gain(tmp_path: Path) -> None:
    raw = {"organ": BAD, "organ.spoken": BAD}
    adapted = {"organ": BAD, "organ.spoken": GOOD}
    found = compared(tmp_path, raw, adapted)
    assert found.nll.value == 0 and not found.adapted_is_better


def test_copies_of_a_question_do_not_prove_a_gain(tmp_path: Path) -> None:
    """Better on one of two groups only, however many questions that one has."""
    gold = [0] * 42
    groups = ["copies"] * 40 + ["other", "third"]
    better, worse = np.log([[0.9, 0.1]]), np.log([[0.4, 0.6]])
    raw = np.repeat(np.log([[0.5, 0.5]]), 42, axis=0)
    adapted = np.vstack([better] * 40 + [worse] * 2)
    grouped, alone = (
        compared(
            tmp_path,
            {"organ": Asked(raw, gold, names)},
            {"organ": Asked(adapted, gold, names)},
        )
        for names in (groups, [])
    )
    assert grouped.nll.value == alone.nll.value < 0
    assert alone.adapted_is_better and not grouped.adapted_is_better
