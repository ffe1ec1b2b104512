"""Workers of Ray Train against the plain loop, one and several."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_loop import trained
from transformers import AutoModelForCausalLM

from distill_ray.config import InputError, RunConfig
from distill_ray.config.schedule import EqualPeriodsSchedule
from distill_ray.config.serving import ColocatedServing
from distill_ray.config.training import LoraConfig
from distill_ray.engine.build import mixed_rows
from distill_ray.engine.job import TeachingSpec, TrainingSpec
from distill_ray.models.load import load_frozen, load_model
from distill_ray.models.ref import ModelRef
from distill_ray.runtime.progress import Event
from distill_ray.runtime.run import Run
from distill_ray.stages.reporting.export import write_weights
from distill_ray.stages.results.data_spec import data_spec
from distill_ray.stages.results.shard_set import ShardSet
from distill_ray.stages.results.training_job import TrainingJob
from distill_ray.stages.shard import shard
from distill_ray.stages.training.quarantine import FOLDER
from distill_ray.stages.training.run import train

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("ray_here"),
]

CLOSE = 1e-5
"""Relative, over 40 steps."""
NAMES = ("loss", "grad_norm", "validation.task.ce", "validation.task.kl")


@pytest.fixture(scope="module")
def shards(tiny: RunConfig, ray_here: None) -> ShardSet:
    return shard(Run.open(tiny, "tiny.yaml"))


def ref(cfg: RunConfig, shards: ShardSet, hidden: int, seed: int, **changes: Any) -> ModelRef:
    source = cfg.teachers[0].model.model_copy(update={"seed": seed})
    made = ModelRef.of(source, shards.counts.tokenizer.model_dump())
    return replace(made, init={**(made.init or {}), "hidden_size": hidden, **changes})


def job(cfg: RunConfig, shards: ShardSet, folder: Path) -> TrainingSpec:
    """A distillation with two checkpoints, on rows with very unequal supervised counts."""
    rungs = []
    for number in range(2):
        load_model(ref(cfg, shards, 48, number)).save_pretrained(folder / str(number))
        rungs.append(ModelRef("path", str(folder / str(number))))
    schedule = EqualPeriodsSchedule()
    return TrainingSpec(
        name="parity",
        student=ref(cfg, shards, 16, 9),
        training=cfg.distill,
        data=data_spec(shards, 0, 8),
        objective=cfg.distill.objective,
        teaching=TeachingSpec({"t": rungs}, "t", schedule=schedule.kind),
        eval_steps=10,
    )


def job_of(run: Run, shards: ShardSet, work: TrainingSpec, key: str, **how: Any) -> TrainingJob:
    made = run.artifact("parity", key, {"job": work, **how})
    return TrainingJob("distill", work, made, shards.artifact, 1000, **how)


def with_workers(cfg: RunConfig, workers: int) -> Run:
    cluster = cfg.cluster.model_copy(update={"num_workers": workers})
    return Run.open(cfg.model_copy(update={"cluster": cluster}), "tiny.yaml")


def at_stage(work: TrainingSpec, stage: int, **changes: Any) -> TrainingSpec:
    """The job at another ZeRO stage; `changes` are keys of the training config."""
    training = work.training.model_copy(update={"zero_stage": stage, **changes})
    return replace(work, training=training)


def plainly(run: Run, shards: ShardSet, work: TrainingSpec) -> tuple[list[dict[str, Any]], Any]:
    """Curve and weights of the plain loop in this process."""
    training_job = job_of(run, shards, work, "plain")
    session = trained(training_job)
    with session.backend.unsharded() as model:
        return session.history, {name: w.detach().clone() for name, w in model.state_dict().items()}


def assert_same_curve(training_job: TrainingJob, expected: list[dict[str, Any]]) -> None:
    curve = training_job.curve().history
    assert [row["checkpoint_index"] for row in curve] == [
        row["checkpoint_index"] for row in expected
    ]
    assert [row["tokens"] for row in curve] == [row["tokens"] for row in expected]
    for name in NAMES:
        theirs = [row[name] for row in expected if name in row]
        found = [row[name] for row in curve if name in row]
        assert found == pytest.approx(theirs, rel=CLOSE), (training_job.artifact.key, name)


def assert_same_result(
    training_job: TrainingJob, history: list[dict[str, Any]], weights: dict[str, torch.Tensor]
) -> None:
    assert_same_curve(training_job, history)
    exported = load_model(training_job.checkpoint_refs()[-1]).state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(exported[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_one_worker_and_two_at_the_other_stages_give_the_curve_of_the_plain_loop(
    tiny: RunConfig, shards: ShardSet, tmp_path: Path
) -> None:
    run, work = with_workers(tiny, 2), job(tiny, shards, tmp_path)
    history, weights = plainly(run, shards, work)
    alone = job_of(run, shards, work, "alone")
    train(with_workers(tiny, 1), [alone])
    both = [job_of(run, shards, at_stage(work, stage), f"stage-{stage}") for stage in (0, 2)]
    train(run, both)
    for training_job in (alone, *both):
        assert_same_result(training_job, history, weights)


def test_two_workers_at_two_stages_and_variants_of_the_job_give_the_curve_of_the_plain_loop(
    tiny: RunConfig, shards: ShardSet, tmp_path: Path
) -> None:
    run, work = with_workers(tiny, 2), job(tiny, shards, tmp_path)
    lora = replace(work, lora=LoraConfig(rank=4))
    untied = replace(work, student=ref(tiny, shards, 16, 9, tie_word_embeddings=False))
    # Without Ray, tests/engine/test_ranks.py has all stages and more variants.
    variants = {"lora-3": at_stage(lora, 3), "untied-3": at_stage(untied, 3)}
    stages = {f"stage-{stage}": at_stage(work, stage) for stage in (1, 3)}
    history, weights = plainly(run, shards, work)
    assert len({row["tokens"] for row in history}) > 5, "rows should be unequal"
    assert history[-1]["loss"] < history[0]["loss"]
    assert [row["checkpoint_index"] for row in history] == [0] * 20 + [1] * 20
    expected = {key: plainly(run, shards, made) for key, made in variants.items()}

    # One group of workers for all: starting it takes longer than the jobs.
    same = [job_of(run, shards, made, key) for key, made in stages.items()]
    sharded = ColocatedServing(shard=True)
    other = {key: job_of(run, shards, made, key, serving=sharded) for key, made in variants.items()}
    train(run, [*same, *other.values()])
    for training_job in same:
        assert_same_result(training_job, history, weights)
    for key, training_job in other.items():
        assert_same_curve(training_job, expected[key][0])
    check_adapted(
        other["lora-3"].checkpoint_refs()[-1], expected["lora-3"][1], tmp_path / "student"
    )


def check_adapted(adapted: ModelRef, expected: dict[str, torch.Tensor], folder: Path) -> None:
    """An adapter on its base, and the merged model of the report."""
    assert adapted.adapter is not None
    for name, value in load_model(adapted).state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
    folder.mkdir()
    write_weights(adapted, folder, "float32")
    alone = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    frozen = load_frozen(adapted, device=torch.device("cpu")).state_dict()
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(value, frozen[name], rtol=1e-5, atol=1e-6)


def poisoned(work: TrainingSpec, student: ModelRef, token: int, folder: Path) -> TrainingSpec:
    """The job with a student whose embedding of one token isn't a number."""
    model = load_model(student)
    model.get_input_embeddings().weight.data[token] = float("nan")
    model.save_pretrained(folder)
    return replace(work, student=ModelRef("path", str(folder)))


def steps_with_each_token(work: TrainingSpec, training_job: TrainingJob) -> dict[int, list[int]]:
    """Token → the steps that read it, counted from 1."""
    source, found = mixed_rows(replace(training_job.local_spec(), training=work.training)), {}
    for step in range(work.steps):
        for micro in range(source.num_micro):
            for token in source.batch(step, micro).input_ids.unique().tolist():
                found.setdefault(token, set()).add(step + 1)
    return {token: sorted(steps) for token, steps in found.items()}


def longest_run(steps: list[int]) -> int:
    """Of numbers that follow each other."""
    groups = groupby(enumerate(steps), key=lambda pair: pair[1] - pair[0])
    return max(len([*group]) for _, group in groups)


def test_skipped_steps_are_quarantined_and_too_many_in_a_row_end_the_run_at_once(
    tiny: RunConfig, shards: ShardSet, tmp_path: Path
) -> None:
    run, work = with_workers(tiny, 2), at_stage(job(tiny, shards, tmp_path), 2)
    student = ref(tiny, shards, 16, 9, tie_word_embeddings=False)
    read = steps_with_each_token(work, job_of(run, shards, work, "steps"))
    # The first few ids are the ones that a loaded model's head is tried on.
    rare = min((t for t in read if t > 4), key=lambda t: (longest_run(read[t]), t))
    common = max((t for t in read if t > 4), key=lambda t: len(read[t]))
    assert len(read[common]) == work.steps
    limit = longest_run(read[rare]) + 1
    work = at_stage(work, 2, max_skipped_steps=limit)
    works = {
        "good": poisoned(work, student, rare, tmp_path / "rare"),
        "hopeless": poisoned(work, student, common, tmp_path / "common"),
    }
    good, hopeless = (job_of(run, shards, made, key) for key, made in works.items())
    seen = Listener()
    with pytest.raises(InputError) as stopped:
        train(replace(run, progress=seen), [good, hopeless])
    check_kept(good, read[rare], seen)
    message, folder = str(stopped.value), Path(hopeless.artifact.uri) / FOLDER
    assert f"distill parity: {limit} steps in a row, the last one step {limit}," in message
    assert f"Their rows are in {folder}." in message
    assert not hopeless.artifact.is_complete()
    expected = {f"step-{step:06d}" for step in range(1, limit + 1)}
    assert {file.name[:11] for file in folder.iterdir()} == expected
    # Each job began once: what is bound to come again isn't tried again.
    assert [event.completed for event in seen.events].count(1) == 2


class Listener:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def check_kept(training_job: TrainingJob, steps: list[int], seen: Listener) -> None:
    """A job that went on after some bad steps."""
    assert training_job.curve().skipped_steps == len(steps)
    assert training_job.artifact.manifest().counts["skipped_steps"] == len(steps)
    folder = Path(training_job.artifact.uri) / FOLDER
    files = [json.loads(file.read_text()) for file in sorted(folder.iterdir())]
    assert sorted({file["step"] for file in files}) == steps
    for file in files:
        assert len(file["row_ids"]) == len(file["input_ids"]) == 2
    assert any(f"{len(steps)} steps left out" in event.text for event in seen.events)
    history = {row["step"]: row for row in training_job.curve().history}
    assert all("loss" not in history[step] for step in steps)
    assert all("loss" in row for step, row in history.items() if step not in steps)
