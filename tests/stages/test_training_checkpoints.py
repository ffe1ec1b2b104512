"""From which checkpoint a training resumes, and which ones stay. No Ray is started."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shard_sets as packed
import tiny_models as tiny
import torch
from tiny_run import training

from distill_ray.config.training import RecipeConfig
from distill_ray.engine import checkpoint
from distill_ray.engine.build import build_session
from distill_ray.engine.checksums import seal
from distill_ray.engine.job import DataSpec, TrainingSpec
from distill_ray.engine.loop import distill
from distill_ray.engine.session import Session
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.training.checkpoints import NUM_TO_KEEP, prune, resume

LENGTH = 16


@pytest.fixture(scope="module")
def training_jobs(tmp_path_factory: pytest.TempPathFactory) -> list[TrainingJob]:
    """Two jobs on the same data."""
    base = tmp_path_factory.mktemp("shards")
    for split in ("train", "validation"):
        samples = packed.samples("text", 20, vocab=tiny.VOCAB, seed=0)
        packed.write(base / "packed" / "notes" / split, samples, length=LENGTH)
    recipe = RecipeConfig.model_validate(training(mix={"notes": 1}))
    data = DataSpec(base, base / "cache", {"notes": "text"}, LENGTH, 0, 4)
    student = tiny.ref(0, num_hidden_layers=1)
    job = TrainingSpec("wide, full", student, recipe, data, num_checkpoints=1, backend="plain")
    storage = Storage(str(base))
    artifacts = [Artifact(storage, "adapt", name, {"name": name}) for name in ("one", "two")]
    return [TrainingJob("adapt", job, each, each, save_steps=1) for each in artifacts]


def fresh(training_job: TrainingJob) -> Session:
    return build_session(training_job.spec, torch.device("cpu"))


def save_all(training_job: TrainingJob, folder: Path, names: dict[int, str]) -> list[float]:
    """Train up to the last of some steps, and save a checkpoint after each: step → its name.

    Returns:
        The loss of each step.
    """
    session, losses = fresh(training_job), []
    for step in distill(session):
        losses.append(step.loss)
        if step.number in names:
            place = folder / names[step.number]
            place.mkdir(parents=True)
            checkpoint.save(session, place, job=training_job.artifact.path)
            seal(place, 0, 1)
        if step.number == max(names):
            break
    return losses


def test_a_training_resumes_from_its_own_newest_checkpoint(
    training_jobs: list[TrainingJob], tmp_path: Path
) -> None:
    """Names say nothing: the newest one has the first name, and another job is further on."""
    one, two = training_jobs
    losses = save_all(one, tmp_path, {1: "checkpoint_z", 2: "checkpoint_m", 3: "checkpoint_a"})
    save_all(two, tmp_path, {4: "checkpoint_zz"})
    session = fresh(one)
    said = resume(session, one, Storage(str(tmp_path)))
    assert session.step == 3
    assert said == ["goes on after step 3, with 1 worker"]
    assert [row["loss"] for row in session.history] == losses[:3]


def test_a_training_without_a_checkpoint_of_its_own_starts_at_the_first_step(
    training_jobs: list[TrainingJob], tmp_path: Path
) -> None:
    one, two = training_jobs
    save_all(two, tmp_path, {2: "checkpoint_1"})
    session = fresh(one)
    assert resume(session, one, Storage(str(tmp_path))) == []
    assert session.step == 0


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before_it(
    training_jobs: list[TrainingJob], tmp_path: Path
) -> None:
    one, _ = training_jobs
    save_all(one, tmp_path, {1: "checkpoint_1", 2: "checkpoint_2"})
    weights = tmp_path / "checkpoint_2" / "plain.pt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    session = fresh(one)
    first, second = resume(session, one, Storage(str(tmp_path)))
    assert session.step == 1
    assert first.startswith("checkpoint_2 is passed over: ")
    assert second == "goes on after step 1, with 1 worker"


def test_each_job_s_newest_checkpoints_stay_and_its_older_ones_are_deleted(
    tmp_path: Path,
) -> None:
    def write(name: str, state: Any) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / checkpoint.STATE).write_text(json.dumps(state))

    # By step and not by name; 10 comes after 9.
    for name, step in (("checkpoint_d", 2), ("checkpoint_c", 9), ("checkpoint_b", 10)):
        write(name, {"job": "adapt/one", "step": step})
    for name, step in (("checkpoint_e", 1), ("checkpoint_f", 5), ("checkpoint_g", 3)):
        write(name, {"job": "adapt/two", "step": step})
    write("checkpoint_torn", {"step": 11})
    prune(Storage(str(tmp_path)))
    assert NUM_TO_KEEP == 2
    remaining = {path.name for path in tmp_path.iterdir() if (path / checkpoint.STATE).is_file()}
    assert remaining == {"checkpoint_c", "checkpoint_b", "checkpoint_f", "checkpoint_g"}
