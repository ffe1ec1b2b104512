"""A worker that dies is replaced, and the run ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from itertools import pairwise

import psutil
import pytest
import torch

from distill_ray.config import RunConfig
from distill_ray.engine.job import TrainingSpec
from distill_ray.models.load import load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.shard import shard
from distill_ray.stages.training.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("ray_here")]


class Killer:
    """Listens to the job `killed`, and kills one of its workers once, after the given step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.killed = False
        self.seen: list[float] = []

    def emit(self, event: Event) -> None:
        if event.total is None or not event.text.startswith("killed"):
            return
        self.seen.append(event.completed or 0)
        if (event.completed or 0) >= self.step and not self.killed:
            children = psutil.Process().children(recursive=True)
            workers = [p for p in children if any("RayTrainWorker" in part for part in p.cmdline())]
            os.kill(workers[-1].pid, signal.SIGKILL)
            self.killed = True


def test_a_killed_worker_costs_no_more_than_the_steps_since_the_committed_checkpoint(
    tiny: RunConfig,
) -> None:
    run = Run.open(tiny, "tiny.yaml")
    shards = shard(run)
    training = tiny.distill.model_copy(update={"token_budget": 120 * 8 * 64, "zero_stage": 2})
    student = ModelRef.of(tiny.student.model, shards.counts.tokenizer.model_dump())
    work = TrainingSpec("kill", student, training, data_spec(shards, 0, 4))
    undisturbed, killed = (
        TrainingJob(
            "distill", replace(work, name=name), run.artifact(name, "", {}), shards.artifact, 20
        )
        for name in ("undisturbed", "killed")
    )
    killer = Killer(step=50)
    train(replace(run, progress=killer), [killed, undisturbed])
    assert killer.killed
    last = next(a for a, b in pairwise(killer.seen) if b < a)
    again = min(step for step in killer.seen if killer.seen.count(step) > 1)
    assert again % 20 == 1, "it goes on from a checkpoint"
    # That of the last step but one may still be on its way when the worker dies.
    assert 1 < again <= last < again + 40, "no more steps are done again than since then"
    expected = load_model(undisturbed.checkpoint_refs()[-1]).state_dict()
    found = load_model(killed.checkpoint_refs()[-1]).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=0)
    curves = [training_job.curve().history for training_job in (undisturbed, killed)]
    assert [row["loss"] for row in curves[0]] == [row["loss"] for row in curves[1]]
