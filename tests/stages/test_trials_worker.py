"""What a trial leaves behind, trained in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shard_sets as packed
import tiny_models as tiny
import torch
from stage_results import run_of, shard_counts

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.data.examples import Questions
from distill_ray.engine.inference.loglikelihood import option_scores
from distill_ray.engine.job import DataSpec, OnSwitch, TeachingSpec
from distill_ray.models.load import load_model
from distill_ray.runtime.run import Run
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.teacher_set import Weights
from distill_ray.stages.results.trial import SaveOptions, Trial, TrialSpec, trial
from distill_ray.stages.trials.worker import EvalQuestions, _fill

LENGTH = 16
KINDS = {"findings": "text", "organ.labelled": "task", "organ.prompts": "task"}
STUDENT, FROZEN_STUDENT = (
    Weights(tiny.ref(seed, num_hidden_layers=1), f"w{seed}") for seed in (0, 9)
)
RUNGS = [tiny.ref(seed, num_hidden_layers=1) for seed in (5, 6)]
ADAPTIVE = ObjectiveConfig(weighting="adaptive")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = run_of(tmp_path, "a", "b")
    shards = made.artifact("shard", "", {})
    for seed, name in enumerate(KINDS):
        kind = name.partition(".")[2] or "text"
        for split, count in (("train", 40), ("validation", 8)):
            rows = packed.samples(kind, count, vocab=200, seed=seed)
            packed.write(Path(shards.uri) / "packed" / name / split, rows, length=LENGTH)
    counts = shard_counts()
    counts["tokenizer"] |= {"vocab_size": tiny.VOCAB}
    shards.commit(counts, 0.0)
    return made


def plan_of(run: Run, **changes: object) -> TrialSpec:
    tokens = 6 * 4 * LENGTH
    training = run.cfg.distill.model_copy(
        update={"token_budget": tokens, "global_batch_size": 4, "micro_batch_size": 4}
    )
    made = TrialSpec("arm", training, 4, num_checkpoints=2, data_seed=0, identity={})
    return replace(made, **changes)  # type: ignore[arg-type]


def taught(run: Run, **changes: object) -> TrialSpec:
    spec = TeachingSpec({"a": RUNGS}, "a", "equal_periods")
    return plan_of(run, **{"teaching": spec, "objective": ObjectiveConfig(), **changes})


def made_of(run: Run, plan: TrialSpec) -> Trial:
    """The trial that the plan makes, on rows that were written here."""
    shards = ShardSet(run.artifact("shard", "", {}), run.cfg)
    found = trial(run, shards, STUDENT, "a", 0, plan)
    data = DataSpec(Path(), Path(), KINDS, LENGTH, 0, 4, tiny.VOCAB)
    return replace(found, training_spec=replace(found.training_spec, data=data))


def questions(name: str, seed: int) -> Questions:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(1, 200, size=5).tolist() for _ in range(7)]
    gold = rng.integers(0, 3, size=7).tolist()
    ids = [f"{name}{i}" for i in range(7)]
    return Questions(name, ids, prompts, [[1], [2], [3]], ["x", "y", "z"], gold, ids)


EXAM = EvalQuestions([questions("organ", 0)], {"test": [questions("organ", 1)]})


def test_the_trained_student_and_its_answers_stay_where_they_are_kept(run: Run) -> None:
    kept = made_of(run, taught(run, save=SaveOptions(weights=True, answers=True)))
    _fill(kept, EXAM, "cpu")
    assert kept.artifact.is_complete()
    (asked,) = EXAM.at_end["test"]
    model = load_model(kept.weights.ref).eval()
    again = option_scores(model, asked, device=torch.device("cpu"))
    np.testing.assert_allclose(kept.answers("test")["organ"], again, rtol=0, atol=1e-4)
    assert kept.answers("validation") == {}
    assert kept.weights.fingerprint == kept.artifact.fingerprint
    before = option_scores(load_model(STUDENT.ref).eval(), asked, device=torch.device("cpu"))
    assert np.abs(before - again).max() > 1e-3


def test_nothing_more_stays_of_others_and_the_outcome_is_the_same(run: Run) -> None:
    plain, kept = (
        made_of(run, taught(run, **save)) for save in ({}, {"save": SaveOptions(True, True)})
    )
    assert plain.artifact.fingerprint != kept.artifact.fingerprint
    outcomes = [_fill(each, EXAM, "cpu") for each in (plain, kept)]
    assert outcomes[0] == outcomes[1]
    assert set(plain.artifact.manifest().files) == {"outcome.json"}


def test_the_outcome_tells_who_taught(run: Run) -> None:
    served = _fill(made_of(run, taught(run)), EXAM, "cpu").schedule
    assert served is not None
    assert (served.teacher, served.checkpoint_index) == ("a", 1)
    (switch,) = served.log
    assert (switch.step, switch.from_checkpoint, switch.to_checkpoint) == (3, 0, 1)
    assert switch.changes
    assert _fill(made_of(run, plan_of(run)), EXAM, "cpu").schedule is None


def test_the_anchor_and_what_happens_at_a_switch_reach_the_training(run: Run) -> None:
    plans = [
        taught(run, objective=ADAPTIVE, frozen_student=STUDENT),
        taught(run, objective=ADAPTIVE, frozen_student=FROZEN_STUDENT),
        taught(run),
        taught(run, on_switch=OnSwitch(reset=True)),
    ]
    trials = [made_of(run, plan) for plan in plans]
    assert len({t.artifact.fingerprint for t in trials}) == 3 + 1
    losses = [_fill(t, EXAM, "cpu").curve[-1].validation["task.ce"] for t in trials]
    assert len(set(losses)) == 4


def test_what_is_as_usual_is_no_part_of_the_identity(run: Run) -> None:
    """Artifacts that were made before there was more to say are found again."""
    identity = made_of(run, taught(run)).artifact.identity
    assert set(identity) == {"student", "shard", "max_examples", "seed"}
    more = made_of(run, taught(run, frozen_student=FROZEN_STUDENT, save=SaveOptions(answers=True)))
    assert set(more.artifact.identity) - set(identity) == {"frozen_student", "save"}
