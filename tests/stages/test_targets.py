"""Targets before they are made: what they are keyed by, and the disk that they may take."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import shard_sets as packed
import tiny_models as tiny
from tiny_run import config, training

from distill_ray.config import RunConfig
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.serving import CachedServing, SampledTargets, TopKTargets
from distill_ray.config.training import TrainingConfig
from distill_ray.console import tables as console
from distill_ray.core.memory import targets_bytes
from distill_ray.engine.job import DataSpec, TeachingSpec, TrainingSpec
from distill_ray.engine.row_plan import rows_needed
from distill_ray.runtime.artifacts import Artifact
from distill_ray.runtime.storage import Storage
from distill_ray.stages.preflight.check import find_problems
from distill_ray.stages.preflight.plan import Plan, Work, plain, plan
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.target_files import artifact_of
from distill_ray.stages.serving.targets import with_targets

KNOWN = {"reassess": {"at_progress": []}, "schedule": {"kind": "fixed"}}


def configured(folder: Path, *, tokens: int = 20480, **serving: Any) -> RunConfig:
    mix = {"organ.labelled": 1, "organ.prompts": 2, "findings": 1}
    given = {"kind": "cached", **serving}
    distill = training(mix=mix, token_budget=tokens, serving=given, **KNOWN)
    return RunConfig.model_validate(config(folder, distill=distill))


def row(made: Plan) -> Work:
    return next(work for work in made.work if work.stage == "targets")


@pytest.mark.parametrize(
    "targets", [{"kind": "top_k", "k": 64}, {"kind": "samples", "num_samples": 64}]
)
def test_the_plan_says_how_much_disk_targets_take_at_most(
    tmp_path: Path, targets: dict[str, Any]
) -> None:
    made = plan(configured(tmp_path, targets=targets))
    # 40 steps of 8 rows of 64 tokens; 64 held-out rows of 3 streams, asked of the first teacher
    # and of the other one's best.
    tokens = 40 * 8 * 64 + 2 * 3 * 64 * 64
    assert row(made).disk_bytes == targets_bytes(tokens, 64) <= 200 * tokens
    assert f"{targets['kind']} of 64, for at most {tokens:,} tokens" in row(made).what
    assert not made.short_of_disk
    assert "The storage has" in console.disk(made)
    rows = {row["stage"]: row for row in plain(made)["work"]}
    assert rows["targets"]["disk_bytes"] == row(made).disk_bytes


def test_the_plan_is_short_where_the_disk_is(tmp_path: Path) -> None:
    made = plan(configured(tmp_path, tokens=10**13))
    assert made.short_of_disk == [row(made)]
    said = console.disk(made)
    assert "That may be too little: free space, set storage elsewhere" in said
    assert console.disk(replace(made, work=[])) == ""


def test_the_teacher_is_in_the_actors_and_not_in_the_worker(tmp_path: Path) -> None:
    made = plan(configured(tmp_path))
    student, control = (work for work in made.work if work.stage == "distill")
    assert student.need == control.need
    assert student.need is not None and student.need.teacher == 0
    need = row(made).need
    assert need is not None and need.parameters + need.teacher > 0


def test_actors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    found = find_problems(configured(tmp_path, num_actors=5000), "tiny.yaml")
    said = [str(problem) for problem in found]
    assert any(text.startswith("distill.serving.num_actors: 5000 workers x 1 CPU") for text in said)


@pytest.fixture(scope="module")
def training_job(tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """Of a run whose storage holds a small shard set."""
    base = tmp_path_factory.mktemp("targets")
    shards = Artifact(Storage(str(base)), "shard", "", {"corpus": 1})
    for split in ("train", "validation"):
        made = packed.samples("text", 40, vocab=tiny.VOCAB, seed=0)
        packed.write(base / shards.path / "packed/notes" / split, made, length=16)
    shards.commit({}, 0.0)
    job = TrainingSpec(
        name="student",
        student=tiny.ref(0),
        training=TrainingConfig(
            token_budget=4 * 4 * 16, global_batch_size=4, micro_batch_size=4, mix={"notes": 1}
        ),
        data=DataSpec(Path(), Path(), {"notes": "text"}, 16, seed=0, num_validation_rows=4),
        objective=ObjectiveConfig(temperature=2.0),
        teaching=TeachingSpec({"big": [tiny.ref(1), tiny.ref(2)]}, "big", "equal_periods"),
    )
    artifact = Artifact(Storage(str(base)), "distill", "student", {})
    return TrainingJob("distill", job, artifact, shards, 100, serving=CachedServing())


def keys(training_job: TrainingJob, fingerprint: str = "teacher") -> list[str]:
    """The folders of a job's targets."""
    storage = training_job.artifact.storage
    run: Any = SimpleNamespace(artifact=lambda *given: Artifact(storage, *given))
    data = replace(
        training_job.spec.data,
        folder=training_job.shards.local(),
        cache=Path(storage.uri) / "cache",
    )
    needed = rows_needed(replace(training_job.spec, data=data))
    return [
        artifact_of(run, training_job, fingerprint, at, rows).path for at, rows in needed.items()
    ]


def changed(training_job: TrainingJob, **changes: Any) -> TrainingJob:
    """The job with another spec, in part."""
    training = training_job.spec.training.model_copy(update=changes.pop("training", {}))
    return replace(training_job, spec=replace(training_job.spec, training=training, **changes))


def test_targets_are_keyed_by_all_that_they_depend_on(training_job: TrainingJob) -> None:
    known = keys(training_job)
    assert len(set(known)) == 2 and known == keys(training_job)
    assert [key.rpartition("-")[0] for key in known] == ["targets/big-0", "targets/big-1"]
    shards = Artifact(training_job.shards.storage, "shard", "", {"corpus": 2})
    shutil.copytree(training_job.shards.uri, shards.uri)
    shards.commit({}, 0.0)
    few = TopKTargets(k=8)
    others = [
        keys(training_job, "another teacher"),
        keys(replace(training_job, shards=shards)),
        keys(replace(training_job, serving=CachedServing(targets=few))),
        keys(replace(training_job, serving=CachedServing(targets=SampledTargets(num_samples=8)))),
        keys(replace(training_job, serving=CachedServing(rows_per_file=7))),
        keys(changed(training_job, objective=ObjectiveConfig(temperature=1.0))),
        keys(changed(training_job, data=replace(training_job.spec.data, num_validation_rows=3))),
        keys(changed(training_job, training={"token_budget": 8 * 4 * 16})),
        keys(changed(training_job, training={"precision": "bfloat16"})),
    ]
    found = {*known, *(key for other in others for key in other)}
    assert len(found) == 2 * (len(others) + 1)


def test_what_does_not_change_targets_keeps_them(training_job: TrainingJob) -> None:
    same = [
        replace(training_job, serving=CachedServing(num_actors=3)),
        changed(training_job, student=tiny.ref(9)),
        changed(training_job, training={"learning_rate": 1.0, "micro_batch_size": 2}),
        changed(training_job, objective=ObjectiveConfig(temperature=2.0, alpha=0.1)),
    ]
    for other in same:
        assert keys(other) == keys(training_job)


def test_a_job_without_a_cached_teacher_stays_as_it_is(training_job: TrainingJob) -> None:
    control = changed(training_job, teaching=None)
    run: Any = None
    assert with_targets(run, control, {}) is control
