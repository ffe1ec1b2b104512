"""Checkpoints by number, and the best one by that name: before it is known which one it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from stage_results import curve
from tiny_run import training

from distill_ray.config.training import DistillConfig, LoraConfig, RecipeConfig
from distill_ray.engine.job import DataSpec, TrainingSpec
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.curve import CURVE
from distill_ray.stages.results.local_files import BEST, local_ref
from distill_ray.stages.results.training_job import TrainingJob

LOSSES = (3.0, 1.0, 2.0, 2.5)
"""At each of four checkpoints."""


def trained_job(
    folder: Path, *, stopped_after: int = 4, lora: LoraConfig | None = None
) -> TrainingJob:
    """A job that is done, of 40 steps; patience may have ended it before."""
    recipe = RecipeConfig.model_validate(training(mix={"findings": 1}))
    job = TrainingSpec(
        "wide, full",
        ModelRef("path", "/wide"),
        recipe,
        DataSpec(folder, folder, {"findings": "text"}, 64, 0, 4),
        lora=lora,
        num_checkpoints=4,
    )
    assert job.checkpoint_steps == [10, 20, 30, 40]
    artifact = Artifact(Storage(str(folder)), "adapt", "full", {"stopped": stopped_after})
    steps = range(1, 10 * stopped_after + 1)
    history = [
        {"step": s, "validation.text.ce": LOSSES[s // 10 - 1]} if s % 10 == 0 else {"step": s}
        for s in steps
    ]
    with artifact.building() as building:
        curve(history=history, best=1).write(building, CURVE)
    return TrainingJob("adapt", job, artifact, artifact, save_steps=10)


def test_a_job_has_a_checkpoint_at_every_index(tmp_path: Path) -> None:
    training_job = trained_job(tmp_path)
    assert training_job.checkpoint_losses() == list(LOSSES)
    place = f"{training_job.artifact.uri}/checkpoints"
    assert training_job.checkpoint_refs() == [ModelRef("path", f"{place}/{i}") for i in range(4)]


def test_an_order_that_stopped_early_has_fewer(tmp_path: Path) -> None:
    training_job = trained_job(tmp_path, stopped_after=3)
    assert (
        training_job.checkpoint_losses() == [3.0, 1.0, 2.0]
        and len(training_job.checkpoint_refs()) == 3
    )


@pytest.mark.parametrize(("keep", "checkpoint_index"), [("last", 3), ("best", 1)])
def test_a_student_is_its_last_checkpoint_or_its_best(
    tmp_path: Path, keep: str, checkpoint_index: int
) -> None:
    training_job = trained_job(tmp_path)
    distill = DistillConfig.model_validate(
        training(mix={"findings": 1}, num_checkpoints=4, select_checkpoint=keep)
    )
    training_job = replace(training_job, spec=replace(training_job.spec, training=distill))
    assert training_job.selected_checkpoint() == checkpoint_index
    assert training_job.selected_ref() == training_job.checkpoint_refs()[checkpoint_index]


def test_the_best_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match="best of 1 checkpoint"):
        DistillConfig.model_validate(training(mix={"findings": 1}, select_checkpoint="best"))


def test_the_losses_of_tasks_count_before_those_of_text(tmp_path: Path) -> None:
    training_job = trained_job(tmp_path)
    rows = [{"step": s, "validation.text.ce": 9.0, "validation.task.ce": s} for s in (10, 20)]
    with training_job.artifact.building() as building:
        curve(history=rows).write(building, CURVE)
    assert training_job.checkpoint_losses() == [10, 20]


def test_an_adapter_is_on_top_of_the_model_that_was_trained(tmp_path: Path) -> None:
    training_job = trained_job(tmp_path, lora=LoraConfig())
    place = f"{training_job.artifact.uri}/checkpoints"
    assert training_job.checkpoint_refs()[2] == ModelRef("path", "/wide", adapter=f"{place}/2")
    assert local_ref(training_job.best_ref()) == ModelRef("path", "/wide", adapter=f"{place}/1")


def test_the_best_checkpoint_is_named_before_it_is_there(tmp_path: Path) -> None:
    training_job = trained_job(tmp_path)
    after = training_job.best_ref()
    assert local_ref(after) == training_job.checkpoint_refs()[1]
    training_job.artifact.storage.delete(training_job.artifact.path)
    assert training_job.best_ref() == after, "what comes next can be planned with it"


@pytest.mark.parametrize("query", ["", "?region=x&scheme=http"])
def test_the_best_checkpoint_of_a_remote_training_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    monkeypatch.setenv("DISTILL_RAY_CACHE", str(tmp_path / "cache"))
    job = Storage(f"fsspec+memory://{tmp_path}/adapt/full-1{query}")
    job.write_bytes(CURVE, curve(best=2).model_dump_json().encode())
    for checkpoint_index in range(4):
        job.sub(f"checkpoints/{checkpoint_index}").write_bytes(
            "config.json", str(checkpoint_index).encode()
        )
    location = job.sub(f"checkpoints/{BEST}").uri
    assert location.endswith(query)
    here = local_ref(ModelRef("path", location, layers=2))
    assert here.layers == 2 and here.location.startswith(str(tmp_path / "cache"))
    assert (Path(here.location) / "config.json").read_text() == "2"


def test_a_folder_of_that_name_elsewhere_is_a_folder(tmp_path: Path) -> None:
    for location in (f"{tmp_path}/{BEST}", f"{tmp_path}/checkpoints/best-of-all", "org/best"):
        assert local_ref(ModelRef("path", location)).location == location
