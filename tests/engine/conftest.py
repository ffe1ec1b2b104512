"""Sessions of the plain backend on tiny models and a shard set of a few rows."""

from dataclasses import replace

import nonfinite_steps as trouble
import pytest
import shard_sets as packed
import tiny_models as tiny
import torch

from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import TrainingConfig
from distill_ray.engine.build import build_session
from distill_ray.engine.job import DataSpec, TeachingSpec, TrainingSpec

LENGTH = 16
KINDS = {"notes": "text", "triage.labelled": "task", "triage.prompts": "task"}


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> DataSpec:
    """Three streams whose rows hold unequal numbers of supervised tokens."""
    base = tmp_path_factory.mktemp("shards")
    for seed, name in enumerate(KINDS):
        kind = name.partition(".")[2] or "text"
        for split, count in (("train", 60), ("validation", 16)):
            made = packed.samples(kind, count, vocab=trouble.POISON, seed=seed)
            folder = base / "packed" / name / split
            packed.write(folder, made, length=LENGTH, prefix=f"{name}:{split}")
    return DataSpec(base, base / "cache", KINDS, LENGTH, seed=0, num_validation_rows=4)


class Builder:
    """Jobs that differ from a common one in what a test is about."""

    def __init__(self, shards: DataSpec) -> None:
        self.shards = shards

    def job(
        self, *, steps=4, teaching=None, objective=None, num_checkpoints=1, student=None, **changes
    ):
        """A job; `changes` are keys of the training config."""
        training = {
            "global_batch_size": 8,
            "micro_batch_size": 8,
            "learning_rate": 1e-2,
            "mix": {"notes": 2, "triage.labelled": 1, "triage.prompts": 1},
            **changes,
        }
        tokens = steps * training["global_batch_size"] * LENGTH
        return TrainingSpec(
            name="test",
            student=student or tiny.ref(0, num_hidden_layers=1),
            training=TrainingConfig(token_budget=tokens, **training),
            data=self.shards,
            objective=objective or ObjectiveConfig(alpha=0.5),
            teaching=teaching,
            num_checkpoints=num_checkpoints,
            backend="plain",
        )

    def session(self, job=None, *, eval_steps=None, best_loss=None, **changes):
        job = replace(job or self.job(**changes), eval_steps=eval_steps)
        session = build_session(job, torch.device("cpu"))
        if best_loss is not None:
            session.teaching.best_loss = best_loss
        return session


@pytest.fixture(scope="session")
def builder(shards) -> Builder:
    return Builder(shards)


@pytest.fixture(scope="session")
def two_checkpoints() -> TeachingSpec:
    """One teacher with two checkpoints that disagree."""
    refs = [tiny.ref(seed, num_hidden_layers=1) for seed in (5, 6)]
    return TeachingSpec({"big": refs}, first_teacher="big", schedule="equal_periods")


@pytest.fixture
def recorded():
    """A function that collects the gradients that a session's optimiser is given."""

    def record(session):
        seen = []

        def keep(optimiser, *_):
            groups = optimiser.param_groups
            seen.append([p.grad.clone() for group in groups for p in group["params"]])

        session.backend._optimiser.register_step_pre_hook(keep)
        return seen

    return record
