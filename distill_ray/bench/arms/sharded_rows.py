"""A real run's data path: packed rows in Parquet, read in the run's order."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distill_ray.bench.arms.engine import one_step, session_of
from distill_ray.bench.arms.inputs import load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork
from distill_ray.config.objective import ObjectiveConfig
from distill_ray.config.training import TrainingConfig
from distill_ray.data.batches import Batch
from distill_ray.data.packing import pack, text_sample
from distill_ray.data.rows import PACKED
from distill_ray.engine.build import mixed_rows
from distill_ray.engine.job import DataSpec, TeachingSpec, TrainingSpec

STEPS = 4
"""Steps of a turn. A pool works ahead within a turn, never while another arm works."""
END = 0


def rows(work: StepWork, vocabulary: int, steps: int) -> list[dict[str, Any]]:
    """Make as many full rows of random ids as these steps take."""
    rng = np.random.default_rng(work.seed)
    ids = rng.integers(1, vocabulary, size=(steps * work.rows, work.length - 1)).tolist()
    samples = [text_sample(str(number), row, END) for number, row in enumerate(ids)]
    return list(pack(samples, work.length, END, "bench:train"))


def shard_folder(base: Path) -> Path:
    """The folder in which a job looks for the rows of its one stream."""
    return base / "packed" / "bench" / "train"


def job(work: StepWork, base: Path, steps: int) -> TrainingSpec:
    """Describe the work as a training job on the rows under `base`."""
    training = TrainingConfig(
        token_budget=steps * work.tokens,
        global_batch_size=work.rows,
        micro_batch_size=work.rows,
        mix={"bench": 1.0},
    )
    return TrainingSpec(
        name="bench",
        student=work.student,
        training=training.model_copy(update={"precision": work.precision}),
        data=DataSpec(base, base / "cache", {"bench": "text"}, work.length, work.seed, 1),
        objective=ObjectiveConfig(alpha=1.0),
        teaching=TeachingSpec({"teacher": [work.teacher]}, "teacher"),
    )


class InMemory:
    """A batch source that reads all of a job's batches before the first step."""

    def __init__(self, spec: TrainingSpec) -> None:
        source = mixed_rows(spec)
        self._batches = [source.batch(step, 0) for step in range(spec.steps)]

    def batch(self, step: int, micro: int) -> Batch:
        """Return micro-batch `micro` of a step."""
        return self._batches[step]


def step(turns: ArmClient, *, work: StepWork) -> None:
    """Take several steps a turn on the plain engine, with all rows in memory."""
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    steps = STEPS * turns.total
    session = session_of(pair, work, turns.device, steps)
    with TemporaryDirectory() as base:
        folder = shard_folder(Path(base))
        folder.mkdir(parents=True)
        table = pa.Table.from_pylist(rows(work, pair.vocabulary, steps), schema=PACKED)
        pq.write_table(table, folder / "00000.parquet")
        session.source = InMemory(job(work, Path(base), steps))
    for _ in turns:
        turns.done([one_step(session) for _ in range(STEPS)], amount=STEPS)
