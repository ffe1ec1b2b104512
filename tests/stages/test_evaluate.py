"""`scores.json`: the student minus each other model, on the test split. No Ray, no model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chat_tokenizer import tokenizer
from oracles.plain_bootstrap import bootstrap_mean
from stage_results import Asked, curve, run_of, shard_counts, write_scores

from distill_ray.core.schedule import ScheduleState
from distill_ray.data.rows import TEXT
from distill_ray.engine.job import DataSpec, TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.run import Run
from distill_ray.stages import evaluate as evaluation
from distill_ray.stages.results.audit_table import INITIAL
from distill_ray.stages.results.curve import CURVE
from distill_ray.stages.results.final_scores import CONTROL, STUDENT, Scores
from distill_ray.stages.results.model_scores import ModelScores, ModelToScore, ScoringResult
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.students import Student, Students
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, Weights
from distill_ray.stages.results.training_job import TrainingJob

N, RESAMPLES = 40, 200
LABELS = ("heart", "lung")
GROUPS = [f"g{i // 4}" for i in range(N)]
GOLD = [i % 2 for i in range(N)]
PROBABILITY_OF_GOLD = {
    # Model → that of the right option, for each question of the test split.
    STUDENT: [0.9] * N,
    CONTROL: [0.6] * 30 + [0.4] * 10,
    INITIAL: [0.5, 0.45] * 20,
    "big": [0.99] * 38 + [0.8] * 2,
    "small": [0.9] * N,
}
"""The student is right everywhere, as `big` is, which is surer; `small` says what it says."""


def model_scores(run: Run, name: str, split: str) -> ModelScores:
    """On the validation split all is the other way round: the student is the worst of all."""
    p = np.array(PROBABILITY_OF_GOLD[name])
    if split != "test":
        p = 1 - p
    scores = np.log(np.stack([p, 1 - p], axis=1))
    scores[np.array(GOLD) == 1] = scores[np.array(GOLD) == 1][:, ::-1]
    text = {"findings": 2.0 if split == "test" else 3.0}
    artifact = run.artifact("evaluate-scores", "", {"model": name, "split": split})
    return write_scores(artifact, {"organ": Asked(scores, GOLD, GROUPS)}, text=text)


def shard_set(run: Run) -> ShardSet:
    """Text of two held-out splits, and a tokenizer."""
    artifact = run.artifact("shard", "", {})
    rows = [
        {
            "row_id": f"organ.labelled:{split}:{i:03d}", "key": f"{split}{i}", "split": split,
            "stream": "organ.labelled", "text": f"{split} text {i}", "label": LABELS[GOLD[i]],
            "group": GROUPS[i],
        }
        for split in ("validation", "test")
        for i in range(N)
    ]  # fmt: skip
    with artifact.building() as building:
        folder = Path(building.storage.uri)
        tokenizer(None).save_pretrained(folder / "tokenizer")
        texts = folder / "text" / "organ.labelled"
        texts.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=TEXT), texts / "0.parquet")
        building.counts |= shard_counts(answers={"organ": {name: name for name in LABELS}})
    return ShardSet(artifact, run.cfg)


def student(run: Run, name: str) -> Student:
    data = DataSpec(Path(), Path(), run.cfg.streams(), 64, 0, 4)
    job = TrainingSpec(name, ModelRef("init"), run.cfg.probe, data)
    artifact = run.artifact("distill", name, {})
    with artifact.building() as building:
        curve(schedule=ScheduleState("big", 0)).write(building, CURVE)
    return Student(TrainingJob("distill", job, artifact, artifact, save_steps=1))


def teachers() -> TeacherSet:
    made = {}
    for name in ("big", "small"):
        ref = ModelRef("init")
        made[name] = Teacher(name, Weights(ref, name), [ref], [None], 0, name)
    return TeacherSet(Weights(ModelRef("init"), "initial"), made, {}, [])


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Scores:
    """What `evaluate` makes of scores that are written down for either split."""
    run = run_of(
        tmp_path_factory.mktemp("run"), "big", "small", evaluate={"num_bootstrap": RESAMPLES}
    )

    def score_models(
        run: Run, _: ShardSet, stage: str, split: str, subjects: Sequence[ModelToScore], *__: Any
    ) -> ScoringResult:
        assert stage == "evaluate"
        return ScoringResult({s.name: model_scores(run, s.name, split) for s in subjects}, {})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "score_models", score_models)
        students = Students(student(run, STUDENT), student(run, CONTROL))
        return evaluation.evaluate(run, shard_set(run), teachers(), students)


@pytest.fixture(scope="module")
def written(scores: Scores) -> dict[str, Any]:
    return dict(json.loads((Path(scores.artifact.uri) / "scores.json").read_text()))


def nll(name: str) -> Any:
    return -np.log(PROBABILITY_OF_GOLD[name])


def test_every_model_is_scored_on_the_test_split(written: dict[str, Any]) -> None:
    assert set(written["rows"]) == set(PROBABILITY_OF_GOLD)
    assert written["teacher"] == "big"
    expected = {STUDENT: 1.0, CONTROL: 0.75, INITIAL: 0.0, "big": 1.0, "small": 1.0}
    for name, row in written["rows"].items():
        figures = row["tasks"]["organ"]
        assert figures["questions"] == N
        if name != INITIAL:  # Of equal options the first one is taken.
            assert figures["accuracy"]["value"] == pytest.approx(expected[name]), name
        assert figures["nll"]["value"] == pytest.approx(nll(name).mean()), name
        assert row["text"] == {"findings": 2.0}, name


def test_a_comparison_is_the_student_minus_the_other_model(written: dict[str, Any]) -> None:
    rows = {row["against"]: row for row in written["comparisons"]}
    assert set(rows) == set(PROBABILITY_OF_GOLD) - {STUDENT}
    for name, row in rows.items():
        assert row["set"] == "organ"
        difference = bootstrap_mean(nll(STUDENT) - nll(name), GROUPS, resamples=RESAMPLES)
        assert row["nll"] == pytest.approx(asdict(difference)), name
    right = np.array([1.0] * 30 + [0.0] * 10)
    difference = bootstrap_mean(1 - right, GROUPS, resamples=RESAMPLES)
    assert rows[CONTROL]["accuracy"] == pytest.approx(asdict(difference))
    assert rows[CONTROL]["accuracy"]["value"] == pytest.approx(0.25)
    assert rows[CONTROL]["nll"]["high"] < 0 < rows["big"]["nll"]["low"]


def test_a_lower_nll_is_better_and_a_higher_accuracy_is(written: dict[str, Any]) -> None:
    verdicts = {
        row["against"]: (row["accuracy_verdict"], row["nll_verdict"])
        for row in written["comparisons"]
    }
    assert verdicts == {
        CONTROL: ("better", "better"),
        INITIAL: ("better", "better"),
        "big": ("no difference shown", "worse"),
        "small": ("no difference shown", "no difference shown"),
    }


def test_the_sides_and_the_largest_gaps_are_of_the_student_and_the_teacher(
    written: dict[str, Any],
) -> None:
    rows = {row["against"]: row["favourable_sets"] for row in written["comparisons"]}
    assert rows[CONTROL]["student_share"] == 1.0
    assert rows["big"]["student_share"] == pytest.approx(2 / N)
    assert rows["big"]["teacher_share"] == pytest.approx(38 / N)
    assert rows["big"]["gap"] == pytest.approx(nll("big").mean() - nll(STUDENT).mean())
    shown = written["largest_gaps"]["organ"]
    assert [row["text"] for row in shown["student"]] == ["test text 38", "test text 39"]
    assert len(shown["teacher"]) == 3
    for row in shown["teacher"]:
        assert row["text"].startswith("test text ")
        assert (row["student"], row["teacher"]) == pytest.approx((-np.log(0.9), -np.log(0.99)))


def test_the_result_reads_what_was_written(scores: Scores, written: dict[str, Any]) -> None:
    assert {name: row.model_dump() for name, row in scores.rows.items()} == written["rows"]
    assert [row.model_dump() for row in scores.comparisons] == written["comparisons"]
    gaps = {name: row.model_dump() for name, row in scores.largest_gaps.items()}
    assert gaps == written["largest_gaps"]
    assert scores.teacher == written["teacher"]
