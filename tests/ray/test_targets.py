"""A teacher's targets, computed by Ray Data and read by Ray Train's workers."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import psutil
import pytest
from plain_loop import trained

from distill_ray.config import RunConfig
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.serving import CachedServing, TopKTargets
from distill_ray.engine.job import TeachingSpec, TrainingSpec
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.manifest import MANIFEST
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.serving.targets import with_targets
from distill_ray.stages.shard import shard
from distill_ray.stages.training.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]

FINGERPRINTS = {"t": "one"}


class Heard:
    """Keeps what a run says, and kills one of the actors once, in the middle."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.killed = False

    def emit(self, event: Event) -> None:
        self.events.append(event)
        if (event.completed or 0) >= 3 and not self.killed:
            children = psutil.Process().children(recursive=True)
            actors = [p for p in children if any("MapWorker" in part for part in p.cmdline())]
            os.kill(actors[-1].pid, signal.SIGKILL)
            self.killed = True


@pytest.fixture(scope="module")
def shards(tiny: RunConfig, ray_here: None) -> ShardSet:
    return shard(Run.open(tiny, "tiny.yaml"))


def job(cfg: RunConfig, shards: ShardSet, folder: Path) -> TrainingSpec:
    """A distillation that changes its checkpoint in the middle."""

    def ref(hidden: int, seed: int) -> ModelRef:
        source = cfg.teachers[0].model.model_copy(update={"seed": seed})
        made = ModelRef.of(source, shards.counts.tokenizer.model_dump())
        return replace(made, init={**(made.init or {}), "hidden_size": hidden})

    rungs = []
    for number in range(2):
        load_model(ref(48, number)).save_pretrained(folder / str(number))
        rungs.append(ModelRef("path", str(folder / str(number))))
    return TrainingSpec(
        name="cached",
        student=ref(16, 9),
        training=cfg.distill.model_copy(update={"token_budget": 10 * 8 * 64}),
        data=data_spec(shards, 0, 4),
        objective=ObjectiveConfig(temperature=2.0),
        teaching=TeachingSpec({"t": rungs}, "t", schedule="equal_periods"),
        eval_steps=5,
    )


def files(training_job: TrainingJob) -> dict[Path, tuple[int, bytes]]:
    """File of a job's targets → when it was written, and its bytes."""
    folders = [artifact.local() for artifact in training_job.targets.values()]
    found = [path for folder in folders for path in folder.rglob("*.parquet")]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def test_what_was_cached_teaches_as_the_teacher_does_and_only_what_is_missing_is_made_again(
    tiny: RunConfig, shards: ShardSet, tmp_path: Path
) -> None:
    heard = Heard()
    run = Run.open(tiny, "tiny.yaml", heard)
    vocabulary = shards.counts.tokenizer.vocab_size
    serving = CachedServing(targets=TopKTargets(k=vocabulary), num_actors=2, rows_per_file=8)
    artifact = run.artifact("cached", "", {"k": vocabulary})
    bare = TrainingJob(
        "distill", job(tiny, shards, tmp_path), artifact, shards.artifact, 1000, serving=serving
    )

    training_job = with_targets(run, bare, FINGERPRINTS)
    assert list(training_job.targets) == [("t", 0), ("t", 1)]
    assert heard.killed
    made = files(training_job)
    assert len(made) > 6
    assert all(artifact.is_complete() for artifact in training_job.targets.values())
    told = [event.text for event in heard.events if event.kind == "note"]
    assert all("bytes a token, 100.00% of the mass" in text for text in told) and len(told) == 2

    # Cut short: one file is gone, one torn, and a killed process has left its own.
    target = training_job.targets["t", 1]
    folder = target.local()
    manifest = target.manifest()
    digests = {p: sha256(data).hexdigest() for p, (_, data) in made.items()}
    for path, digest in manifest.files.items():
        assert digests[folder / path] == digest
    (folder / MANIFEST).unlink()
    (gone, torn), left = sorted(p for p in made if folder in p.parents)[:2], "x.7.part"
    gone.unlink()
    torn.write_bytes(made[torn][1][:100])
    (folder / left).write_bytes(b"half")
    training_job = with_targets(run, bare, FINGERPRINTS)
    again = files(training_job)
    assert {p for p in made if again[p][0] != made[p][0]} == {gone, torn}
    assert {p: data for p, (_, data) in again.items()} == {p: data for p, (_, data) in made.items()}
    assert not (folder / left).exists()
    assert target.manifest().counts == manifest.counts
    assert target.manifest().files == manifest.files

    # Asked again, nothing is done, in no time.
    heard.events.clear()
    assert with_targets(run, bare, FINGERPRINTS).targets.keys() == training_job.targets.keys()
    assert heard.events == []

    session = trained(bare)
    # One worker starts sooner; test_training.py has two.
    cluster = tiny.cluster.model_copy(update={"num_workers": 1})
    train(replace(run, cfg=tiny.model_copy(update={"cluster": cluster})), [training_job])
    curve = training_job.curve().history
    assert [row["checkpoint_index"] for row in curve] == [
        row["checkpoint_index"] for row in session.history
    ]
    for name in ("loss", "validation.task.ce", "validation.task.kl"):
        expected = [row[name] for row in session.history if name in row]
        assert [row[name] for row in curve if name in row] == pytest.approx(expected, rel=5e-4)
