"""Which checkpoint of a teacher serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stage_results import curve
from tiny_run import tiny_model, training

from distill_ray.config.models import TeacherConfig
from distill_ray.config.training import RecipeConfig
from distill_ray.engine.job import DataSpec, TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.adapt import _teacher
from distill_ray.stages.results.curve import CURVE
from distill_ray.stages.results.teacher_set import Teacher, TeacherSet, Weights, softened
from distill_ray.stages.results.training_job import TrainingJob

RAW = Weights(ModelRef("path", "/raw"), "raw")


def order(folder: Path, *losses: float, name: str = "full") -> TrainingJob:
    """A phase of four checkpoints, of which as many were made as there are losses."""
    recipe = RecipeConfig.model_validate(training(mix={"findings": 1}))
    data = DataSpec(folder, folder, {"findings": "text"}, 64, 0, 4)
    job = TrainingSpec("wide", RAW.ref, recipe, data, num_checkpoints=4)
    artifact = Artifact(Storage(str(folder)), "adapt", name, {"losses": losses})
    history = [
        {"step": step, "validation.text.ce": loss}
        for step, loss in zip(job.checkpoint_steps, losses)
    ]
    with artifact.building() as building:
        curve(history=history).write(building, CURVE)
    return TrainingJob("adapt", job, artifact, artifact, save_steps=10)


def prepared(*phases: TrainingJob, **changes: Any) -> Teacher:
    recipes = ["full"] * len(phases)
    data = {"name": "wide", "model": tiny_model(32, 1), "recipes": recipes, **changes}
    return _teacher(TeacherConfig.model_validate(data), RAW, phases)


def test_a_teacher_without_a_recipe_serves_as_it_came() -> None:
    made = prepared()
    assert made == Teacher("wide", RAW, [RAW.ref], [None], 0, "raw")
    assert not made.is_trained and made.serving.ref == RAW.ref and made.checkpoints == [RAW.ref]


@pytest.mark.parametrize(
    ("losses", "best"),
    [((3.0, 1.0, 2.0, 2.5), 1), ((4.0, 3.0, 2.0, 1.0), 3), ((2.0, 2.0, 3.0, 3.0), 0)],
)
def test_the_checkpoint_with_the_least_loss_serves(
    tmp_path: Path, losses: tuple[float, ...], best: int
) -> None:
    made = prepared(order(tmp_path, *losses))
    assert made.best == best and made.losses == list(losses)
    assert made.serving.ref == made.all_checkpoints[best]
    assert made.checkpoints == made.all_checkpoints[: best + 1] and len(made.all_checkpoints) == 4
    assert made.is_trained


def test_checkpoints_are_those_of_the_last_recipe(tmp_path: Path) -> None:
    first, last = order(tmp_path, 3.0, 2.0, 1.0, 0.5), order(tmp_path, 9.0, 8.0, name="more")
    made = prepared(first, last)
    assert (made.fingerprint, made.best) == (last.artifact.fingerprint, 1)
    assert made.all_checkpoints == last.checkpoint_refs()


def test_the_config_may_choose_the_checkpoint(tmp_path: Path) -> None:
    phase = order(tmp_path, 3.0, 1.0, 2.0, 2.5)
    first, fourth = (prepared(phase, checkpoint=number) for number in (1, 4))
    assert (first.best, fourth.best) == (0, 3), "counted from 1"
    assert first.serving.fingerprint != fourth.serving.fingerprint
    assert first.fingerprint == fourth.fingerprint, "they share a training"
    assert (len(first.checkpoints), len(fourth.checkpoints)) == (1, 4)


def test_a_checkpoint_beyond_an_early_stop_is_the_last_that_was_made(tmp_path: Path) -> None:
    made = prepared(order(tmp_path, 3.0, 1.0, 2.0), checkpoint=4)
    assert made.best == 2 and made.serving.ref == made.all_checkpoints[-1]


def test_a_teacher_that_gained_nothing_is_named_by_what_it_was(tmp_path: Path) -> None:
    phase = order(tmp_path, 3.0, 1.0)
    gained = prepared(phase)
    lost = replace(gained, adapted_is_better=False)
    made = TeacherSet(RAW, {"gained": gained, "lost": lost}, {}, [])
    assert made.fingerprints() == {"gained": phase.artifact.fingerprint, "lost": "raw"}
    assert lost.serving == RAW and lost.adapted == gained.adapted


def test_a_softened_ladder_is_the_same_checkpoints_at_a_temperature(tmp_path: Path) -> None:
    rungs = order(tmp_path, 3.0, 1.0).checkpoint_refs()
    soft = softened(rungs, 1.5)
    assert [ref.temperature for ref in soft] == [1.5, 1.5]
    assert [ref.base for ref in soft] == rungs
