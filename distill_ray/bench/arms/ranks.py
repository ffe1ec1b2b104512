"""DeepSpeed over several processes, at the work of one process."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
import torch.distributed as dist

from distill_ray.bench.arms.engine import one_step, session_of
from distill_ray.bench.arms.inputs import batch, load_pair
from distill_ray.bench.harness.client import ArmClient
from distill_ray.bench.suites.work import StepWork
from distill_ray.data.batches import Batch
from distill_ray.engine.backends.deepspeed import DeepSpeedBackend, ZeroSpec
from distill_ray.engine.backends.student import Student


class RankRows:
    """The batch source of this rank's rows."""

    def __init__(self, work: StepWork, vocabulary: int, rank: int, ranks: int) -> None:
        self._work, self._vocabulary = work, vocabulary
        size = work.rows // ranks
        self._own_rows = slice(rank * size, (rank + 1) * size)

    def batch(self, step: int, micro: int) -> Batch:
        """Return this rank's part of micro-batch `micro` of a step."""
        full_batch = batch(self._work, step, self._vocabulary)
        names = ("input_ids", "position_ids", "label_mask", "teacher_mask", "is_task", "row_ids")
        return Batch(**{name: getattr(full_batch, name)[self._own_rows] for name in names})


def step(turns: ArmClient, *, work: StepWork, zero_stage: int) -> None:
    """Take distillation steps of the loop, each batch split over the ranks."""
    os.environ.setdefault("LOCAL_RANK", str(turns.rank))
    dist.init_process_group(
        "nccl" if turns.device.type == "cuda" else "gloo",
        init_method=f"file://{turns.rendezvous}",
        rank=turns.rank,
        world_size=turns.ranks,
    )
    pair = load_pair(work, turns.device)
    turns.tell(**pair.facts)
    plain = session_of(pair, work, turns.device, turns.total)
    backend = DeepSpeedBackend(
        Student(pair.student, pair.vocabulary),
        plain.optim,
        torch.device(turns.device),
        ZeroSpec(zero_stage, work.precision, work.rows // turns.ranks, num_micro=1),
    )
    source = RankRows(work, pair.vocabulary, turns.rank, turns.ranks)
    session = replace(plain, backend=backend, source=source)
    for _ in turns:
        turns.done([one_step(session)])
    dist.destroy_process_group()
